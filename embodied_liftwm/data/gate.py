"""What is wrong with the arrays of an episode: one array, one place in it, what was found and what would be right.

Each function returns a sentence, or "" where nothing is wrong. `Episode.validate` asks them all, and is what everybody calls:
collection, importers, readers and `liftwm data check` refuse the same episode with the same words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from embodied_liftwm.pose_faults import listed, pose_faults

# Name -> (shape, dtype). T actions, F = T + 1 frames, H W image, A action, G goal, O objects; G and O may be 0.
ARRAYS: dict[str, tuple[str, str]] = {
    "rgb": ("F H W 3", "uint8"),
    "action": ("T A", "float32"),
    "reward": ("T", "float32"),
    "terminated": ("T", "bool"),
    "truncated": ("T", "bool"),
    "intrinsics": ("3 3", "float32"),
    "world_from_camera": ("F 4 4", "float32"),
    "goal": ("F G", "float32"),
}
TRUTH_ARRAYS: dict[str, tuple[str, str]] = {
    "depth": ("F H W", "float16"),
    "segmentation": ("F H W", "uint16"),
    "world_from_camera": ("F 4 4", "float32"),
    "object_id": ("O", "int32"),
    "object_colour": ("O 3", "float32"),
    "object_pose": ("F O 7", "float32"),
    "visible_pixels": ("F O", "int32"),
}
TRUTH_PER_FRAME = tuple(name for name, (shape, _) in TRUTH_ARRAYS.items() if shape.startswith("F"))
ROWS = {"F": "frame", "T": "step", "O": "object"}
"""What a row of an array is, by its first axis."""
RIGID = 1e-3
"""Largest deviation of R R^T from the identity."""
SKEW_PX = 1e-3
"""Largest skew that is rounding, pixels."""
FOCAL_SHARES = (0.1, 100.0)
"""Least and largest focal length, as a share of the frame's side: views of 157 and of half a degree."""
_FINITE = "expected finite numbers"


def layout_fault(arrays: Mapping[str, Any], truth: Mapping[str, Any]) -> str:
    """Whether shapes and dtypes agree with the tables above; whatever has a `shape` and a `dtype` will do.

    Args:
        arrays: what `ARRAYS` names.
        truth: what `TRUTH_ARRAYS` names, or nothing.
    """
    tables = [(key, array, _shape(array), *ARRAYS[key]) for key, array in arrays.items()]
    tables += [(f"truth/{key}", array, _shape(array), *TRUTH_ARRAYS[key]) for key, array in truth.items()]
    counts = [shape[0] - (axes[0] == "F") for _, _, shape, axes, _ in tables if axes[0] in "FT" and shape]
    actions = max(Counter(counts).most_common(1)[0][0], 1) if counts else 1  # as most arrays have it
    sizes = {"3": 3, "4": 4, "7": 7, "T": actions, "F": actions + 1}
    for key, array, shape, axes, dtype in tables:
        fault = _array_fault(array, shape, axes.split(), dtype, sizes)
        if fault:
            return f"{key}: {fault}"
    return "" if min(sizes["H"], sizes["W"]) > 0 else "rgb: frames have no pixels"


def _shape(array: Any) -> tuple[int, ...]:
    return getattr(array, "shape", None) or ()


def _array_fault(array: Any, shape: tuple[int, ...], axes: list[str], dtype: str, sizes: dict[str, int]) -> str:
    """Check one array, and bind axis letters to the sizes first seen."""
    fits = len(shape) == len(axes) and all(sizes.setdefault(axis, size) == size for axis, size in zip(axes, shape, strict=True))
    if fits and getattr(array, "dtype", None) == np.dtype(dtype):
        return ""
    expected = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
    count = f" for {sizes['T']} actions and {sizes['F']} frames" if axes[0] in "FT" else ""
    return f"expected [{expected}] {dtype}{count}, got {describe(array)}"


def describe(value: Any) -> str:
    """Shape and dtype, or the type of what has none."""
    return f"{list(_shape(value))} {value.dtype}" if hasattr(value, "dtype") else type(value).__name__


def number_fault(array: np.ndarray, row: str = "") -> str:
    """Whether all numbers are finite; `row` is what a row of the array is."""
    bad = ~np.isfinite(array)
    if not bad.any():
        return ""
    where = np.unravel_index(int(np.argmax(bad)), bad.shape)
    place = f"{row} {where[0]} " if row else ""
    return f"{place}holds {array[where]}, {_FINITE}"


def depth_fault(depth: np.ndarray) -> str:
    """Whether all of [F, H, W] float16 are metres. Compares bits: arithmetic of float16 is slow."""
    bits = depth.view(np.uint16)
    bad = ((bits & 0x7C00) == 0x7C00) | (bits > 0x8000)  # no number or infinity; below 0
    if not bad.any():
        return ""
    where = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return f"frame {where[0]} holds {depth[where]}, expected finite metres, 0 where there is no depth"


def pose_fault(poses: np.ndarray) -> str:
    """Whether poses [F, 4, 4] are rigid motions."""
    if fault := number_fault(poses, "frame"):
        return fault
    for wrong, say in pose_faults(poses, RIGID, last_row=0.0):
        if wrong.any():
            frame = int(np.argmax(wrong))
            return f"frame {frame} {say(frame)}"
    return ""


def intrinsics_fault(k: np.ndarray, height: int, width: int) -> str:
    """Whether intrinsics [3, 3] are those, in pixels, of a camera that takes frames of this size."""
    if fault := number_fault(k):
        return fault
    (fx, skew, cx), (other, fy, cy) = k[:2].tolist()
    frame = f"pixels of a {height} x {width} frame"
    if k[2].tolist() != [0, 0, 1]:
        transposed = k[2, 2] == 1 and not k[:2, 2].any()
        return f"{'is transposed' if transposed else f'last row is {listed(k[2])}'}: expected fx 0 cx, 0 fy cy, 0 0 1"
    if max(abs(skew), abs(other)) > SKEW_PX:
        return f"skew is {listed([skew, other])}: expected fx 0 cx, 0 fy cy, 0 0 1"
    found = f"fx fy cx cy = {listed([fx, fy, cx, cy])}"
    if min(fx, fy) <= 0:
        return f"{found}: expected focal lengths above 0, in {frame}"
    if max(cx, cy) <= 1 < min(height, width) / 4:
        return f"{found} are shares of the frame: expected {frame}"
    if not (0 < cx < width and 0 < cy < height):
        return f"{found}: the principal point lies outside, expected {frame}"
    if not all(FOCAL_SHARES[0] <= focal / side <= FOCAL_SHARES[1] for focal, side in ((fx, width), (fy, height))):
        return f"{found}: no camera has such a focal length, expected {frame}"
    return ""


def ending_fault(ended: np.ndarray) -> str:
    """Whether nothing follows the end, which `ended` [T] marks."""
    if not ended[:-1].any():
        return ""
    step = int(np.argmax(ended))
    return f"step {step} of {len(ended)} ends the episode, which goes on: expected no other than the last step to end it"
