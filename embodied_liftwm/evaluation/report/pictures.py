"""Arrays to PNGs: frames, errors, depth and top-down maps, as data URIs or as files."""

from __future__ import annotations

import base64
import io

import matplotlib
import numpy as np
from PIL import Image

from embodied_liftwm.evaluation.views.strips import PointMap

SCALE = 3
"""Screen pixels a side of an image pixel."""

ERROR_TOP = 0.5
"""Mean absolute colour error drawn as the brightest."""


def frame_picture(rgb: np.ndarray, mask: np.ndarray | None = None, scale: int = SCALE) -> np.ndarray:
    """A frame [H, W, 3] in [0, 1], enlarged; the border of `mask` [H, W] drawn around the object. [3H, 3W, 3] uint8"""
    large = _enlarge(_bytes(rgb), scale)
    if mask is not None and mask.any():
        inside = _enlarge(mask, scale)
        padded = np.pad(inside, 1)
        shrunk = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        large[inside & ~shrunk] = 255
    return large


def error_picture(rgb: np.ndarray, true_rgb: np.ndarray, scale: int = SCALE) -> np.ndarray:
    """Mean absolute colour error, black at 0 and bright at `ERROR_TOP`. [3H, 3W, 3] uint8"""
    error = np.abs(rgb - true_rgb).mean(-1) / ERROR_TOP
    return _enlarge(_bytes(matplotlib.colormaps["magma"](np.clip(error, 0, 1))[..., :3]), scale)


def depth_picture(depth: np.ndarray, top_m: float) -> np.ndarray:
    """Depth [H, W], near bright, far dark up to `top_m`; grey where there is none. [3H, 3W, 3] uint8"""
    coloured = matplotlib.colormaps["viridis"](1.0 - np.clip(depth / top_m, 0, 1))[..., :3]
    coloured[depth <= 0] = 0.5
    return _enlarge(_bytes(coloured))


def normal_picture(normal: np.ndarray) -> np.ndarray:
    """Normals [H, W, 3] in the camera frame: red right, green up, blue towards us; grey where none. [3H, 3W, 3] uint8"""
    coloured = 0.5 + 0.5 * normal * np.array([1.0, -1.0, -1.0])
    return _enlarge(_bytes(coloured))


def point_picture(cloud: PointMap, bounds: tuple[float, float, float, float], pixels_per_m: int = 24) -> np.ndarray:
    """Points seen from above, higher ones on top, all below the ceiling; transparent where there is none.

    Args:
        cloud: world points.
        bounds: x0, y0, x1, y1 of the picture, metres.
        pixels_per_m: resolution.

    Returns:
        y up. [rows, columns, 4] uint8
    """
    x0, y0, x1, y1 = bounds
    columns, rows = round((x1 - x0) * pixels_per_m), round((y1 - y0) * pixels_per_m)
    picture = np.zeros((rows, columns, 4), np.uint8)
    low = cloud.points[:, 2] < CEILING_M
    points, rgb = cloud.points[low], cloud.rgb[low]
    order = np.argsort(points[:, 2], kind="stable")
    column = np.floor((points[order, 0] - x0) * pixels_per_m).astype(int)
    row = np.floor((y1 - points[order, 1]) * pixels_per_m).astype(int)
    for dy in (-1, 0, 1):  # a point is three pixels wide: fewer gaps
        for dx in (-1, 0, 1):
            r, c = row + dy, column + dx
            kept = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
            picture[r[kept], c[kept], :3] = _bytes(rgb[order][kept])
            picture[r[kept], c[kept], 3] = 255
    return picture


CEILING_M = 1.9
"""Points above are left out of maps: the ceiling would hide the room."""


def png(array: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3 or 4]."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(array: np.ndarray) -> str:
    """A PNG that stands inside a page."""
    return "data:image/png;base64," + base64.b64encode(png(array)).decode()


def _bytes(rgb: np.ndarray) -> np.ndarray:
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)


def _enlarge(array: np.ndarray, scale: int = SCALE) -> np.ndarray:
    return array.repeat(scale, axis=0).repeat(scale, axis=1)
