"""Frames of any size, cropped to the middle and resized, with the intrinsics that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from embodied_liftwm.data.pictures import read_picture
from embodied_liftwm.errors import UserError

PICTURES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
Size = tuple[int, int]
"""Height and width, pixels."""
MOST_SIDE = 2048
"""Of a frame that is kept as it is: an episode is held in memory whole, and 300 frames of 2048 x 2048 are 4 GB."""


def middle(has: Size, size: Size) -> tuple[int, int, int, int]:
    """The largest central part of a frame that has the proportions of `size`: left, top, width, height in pixels."""
    height, width = has
    wide, high = min(width, round(height * size[1] / size[0])), min(height, round(width * size[0] / size[1]))
    return (width - wide) // 2, (height - high) // 2, wide, high


def fit(picture: Image.Image, size: Size | None) -> np.ndarray:
    """The middle of a picture, resized; the whole of it as it is without a size. [h, w, 3] uint8

    Raises:
        UserError: no size for a picture of more than `MOST_SIDE` pixels a side.
    """
    if size is None and max(picture.size) > MOST_SIDE:
        raise UserError(f"a frame of {picture.height} x {picture.width}: too large to keep as it is, give size=, as in size=64")
    if size is not None and (picture.height, picture.width) != size:
        left, top, wide, high = middle((picture.height, picture.width), size)
        picture = picture.crop((left, top, left + wide, top + high))
        if (high, wide) != size:
            picture = picture.resize((size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8).copy()


def fit_intrinsics(k: np.ndarray, has: Size, size: Size | None) -> np.ndarray:
    """Intrinsics of what `fit` returns.

    Args:
        k: of the whole frame, pixels. [3, 3]
        has: height and width of the whole frame.
        size: as given to `fit`.

    Returns:
        Pixels. [3, 3] float32
    """
    left, top, wide, high = middle(has, size or has)
    x, y = (1.0, 1.0) if size is None else (size[1] / wide, size[0] / high)
    with np.errstate(all="ignore"):
        moved = np.asarray(k, np.float64) - [[0, 0, left], [0, 0, top], [0, 0, 0]]
        return (moved * [[x], [y], [1]]).astype(np.float32)


def pinhole(fx: float, fy: float, cx: float, cy: float) -> np.ndarray:
    """Intrinsics of a camera without skew. [3, 3] float64"""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def read_frames(files: list[Path], size: Size | None) -> tuple[np.ndarray, Size]:
    """Pictures of one size, fitted, and the height and width they had.

    Returns:
        [F, h, w, 3] uint8, and (height, width).

    Raises:
        UserError: a picture that is missing or none, or of another size than the first.
    """
    frames, has = [], None
    for file in files:
        picture = read_picture(file)
        if has is not None and picture.size != has:
            raise UserError(f"{file}: {picture.height} x {picture.width}, expected {has[1]} x {has[0]} as the frames before it")
        has = picture.size
        try:
            frames.append(fit(picture, size))
        except UserError as fault:
            raise UserError(f"{file}: {fault}") from None
    assert has is not None
    return np.stack(frames), (has[1], has[0])
