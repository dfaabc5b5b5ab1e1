"""The compiled kernel of `se3.relative_twist`, in double precision: apart from it, as Gaussians are drawn without numba too."""

from __future__ import annotations

import math

import numpy as np

from embodied_liftwm.kernels import loosely_compiled


@loosely_compiled
def relative_twists(world_from_a, world_from_b, twists):
    """Logarithms of the poses b seen from a, both [B, 4, 4]: twists [B, 6], written."""
    rotation, moved, cross = np.empty((3, 3)), np.empty(3), np.empty(3)
    for n in range(len(twists)):
        a, b = world_from_a[n], world_from_b[n]
        for i in range(3):
            moved[i] = 0.0
            for k in range(3):
                moved[i] += float(a[k, i]) * (float(b[k, 3]) - float(a[k, 3]))
            for j in range(3):
                rotation[i, j] = 0.0
                for k in range(3):
                    rotation[i, j] += float(a[k, i]) * float(b[k, j])
        turn = _rotation_vector(rotation)
        squared = turn[0] * turn[0] + turn[1] * turn[1] + turn[2] * turn[2]
        half = 0.5 * math.sqrt(squared)
        # the second-order coefficient of the inverse left Jacobian, and the first terms of its series
        quadratic = 1 / 12 + squared / 720 if squared < 1e-4 else (1.0 - half / math.tan(half)) / squared
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            cross[i] = turn[j] * moved[k] - turn[k] * moved[j]
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            twists[n, i] = moved[i] - 0.5 * cross[i] + quadratic * (turn[j] * cross[k] - turn[k] * cross[j])
            twists[n, 3 + i] = turn[i]


@loosely_compiled
def _rotation_vector(m):
    """`se3.so3_log` of one matrix: the row of the largest diagonal of 4 q q^T, normalised, is the quaternion q."""
    diagonal = (1 + m[0, 0] + m[1, 1] + m[2, 2], 1 + m[0, 0] - m[1, 1] - m[2, 2],
                1 - m[0, 0] + m[1, 1] - m[2, 2], 1 - m[0, 0] - m[1, 1] + m[2, 2])  # fmt: skip
    x, y, z = m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]
    xy, xz, yz = m[1, 0] + m[0, 1], m[0, 2] + m[2, 0], m[2, 1] + m[1, 2]
    best = 0
    for i in range(1, 4):
        if diagonal[i] > diagonal[best]:
            best = i
    if best == 0:
        quat = (diagonal[0], x, y, z)
    elif best == 1:
        quat = (x, diagonal[1], xy, xz)
    elif best == 2:
        quat = (y, xy, diagonal[2], yz)
    else:
        quat = (z, xz, yz, diagonal[3])
    sign = -1.0 if quat[0] < 0 else 1.0
    length = math.sqrt(quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3])
    whole = math.sqrt(quat[0] * quat[0] + length * length)
    factor = 2.0 * sign * (math.atan2(length, abs(quat[0])) / length if length > 1e-12 * whole else 1.0 / whole)
    return factor * quat[1], factor * quat[2], factor * quat[3]
