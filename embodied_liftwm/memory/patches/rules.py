"""The numbers by which patches are written and read: torch's code and the kernels take them from here alone.

Kernels get them as arguments (`as_scalars`): numba promotes float32 arithmetic with Python's floats to float64, and its cache
on disk would not notice a constant that changed in another file. Sections are those of docs/experiments.md; what names none was
set once, on development rooms, and not swept.
"""

from __future__ import annotations

from typing import NamedTuple


class FrameRules(NamedTuple):
    """What a frame's depth is taken for."""

    edge: float = 0.1  # step of depth between neighbouring pixels, a share of it, from which a pixel may mix two surfaces
    edge_trust: float = 0.1  # evidence of such pixels, relative to others
    smoothing_cells: int = 2  # normals are of the depth averaged over windows of this radius (wider: -0.2 dB, section 19),
    smoothing_log: float = 0.08  # among depths whose logarithms differ by about this: a bilateral filter (Tomasi 1998)


class MeetingRules(NamedTuple):
    """How texels meet a frame."""

    gate_sigmas: float = 2.0  # two depths are one when they differ by less than so many joint standard deviations (section 8),
    gate_low: float = 0.03  # but in any case when they differ by less than this share of the depth,
    gate_high: float = 0.1  # and never by more than this (wider: -0.1 dB, section 19)
    coarse: float = 2.5  # a texel so much larger than those that its pixel would allocate gives way; none smaller is filled
    fill_gate: float = 0.03  # an empty texel's column meets the surface when their depths agree to this share: `gate_low`
    fill_reach: float = 0.5  # how far outside its cube, in its edges, a patch follows a surface (farther: -0.1 dB, section 19)
    facing_cosine: float = 0.5  # a patch takes no surface that is turned away further: 1 / sqrt(3) is a cube's diagonal
    settle: int = 3  # iterations by which an empty texel finds the surface in its column
    near_m: float = 0.05  # what is nearer is in no image
    other_colour: float = 0.15  # mean difference over channels from which surfaces differ: 2 % of texels met again (section 41)
    least_hidden: int = 6  # texels of a patch that are hidden together, at least,
    least_share: float = 0.5  # and their share of those that are met: without it borders cost 0.4 dB (section 41)
    max_evidence_ratio: float = 8.0  # old evidence counts at most so many times the new: the map follows a world that changes
    least_evidence: float = 1e-6  # 1/m^2, below which variances grow no further
    largest_log_factor: float = 2.0  # what is learned multiplies evidences by at most e^2 either way (section 18)
    behind: int = 6  # added to the face of a patch that holds what is hidden; faces are 0 to 5


class ReadingRules(NamedTuple):
    """How a camera sees texels."""

    point_px: float = 0.7  # largest distance of the points of one texel, pixels: below one, so that nothing shows through
    most_points: int = 24  # a side of a texel: 8 left holes in what is nearer than half a metre (+0.4 dB, section 19)
    steepest: float = 1.5  # largest slope of a relief against its face that is believed
    near_m: float = 0.05  # texels nearer than this are not splatted
    depth_tolerance: float = 0.1  # share of the surface's depth by which what a pixel shows may lie behind it (section 19)
    temperature: float = 0.02  # difference of log-depth at which a point weighs 1 / e of another
    unsure: float = 0.5  # doubt of where a texel is, as a share of its depth, from which it hides no other (section 19),
    unsure_weight: float = 0.3  # and its weight then


FRAME, MEETING, READING = FrameRules(), MeetingRules(), ReadingRules()
LEAST_PIXELS, LEAST_TEXELS = 8, 6
"""Unexplained pixels that allocate a patch, and texels without which it is not kept."""
REACH = 0.9 + MEETING.fill_reach
"""How far from the middle of its cube, in edges, a patch is in view: 0.9 is a cube's half diagonal, rounded up."""
