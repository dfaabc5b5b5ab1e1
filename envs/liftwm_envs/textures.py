"""Image textures made in numpy, so that every surface tells where it is.

Flat colours leave depth unidentifiable from video, so structure (walls, floors, ceilings, posters) carries strong luminance
patterns. Hue belongs to objects: structure stays below a saturation of 0.25, far from every colour of the object palette.
Textures tile without a seam and are uint8 [size, size, 3].
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.float64]
TEXTURE_PX = 96
MAX_STRUCTURE_SATURATION = 0.22


def _smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Field:
    """Periodic bilinear value noise in [0, 1]. [size, size]"""
    grid = rng.random((cells, cells))
    at = np.arange(size) * cells / size
    low = at.astype(int)
    frac = at - low
    frac = frac * frac * (3 - 2 * frac)
    high = (low + 1) % cells
    rows = grid[low] * (1 - frac)[:, None] + grid[high] * frac[:, None]
    return rows[:, low] * (1 - frac) + rows[:, high] * frac


def noise(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Cloudy noise of four octaves in [0, 1]. [size, size]"""
    total = np.zeros((size, size))
    for cells, gain in ((4, 1.0), (8, 0.8), (16, 0.6), (32, 0.3)):
        total += gain * _smooth_noise(rng, cells, size)
    spread = np.ptp(total)
    return (total - total.min()) / spread


def bricks(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Running-bond bricks, each of its own shade, with light mortar. [size, size]"""
    rows, columns = int(rng.choice([6, 8])), 4
    y, x = np.mgrid[0:size, 0:size] / size
    row = (y * rows).astype(int)
    shifted = (x * columns + 0.5 * (row % 2)) % columns
    shade = rng.uniform(0.1, 0.75, (rows, columns))[row, shifted.astype(int)]
    mortar = (y * rows % 1 < 0.12) | (shifted % 1 < 0.07)
    return np.where(mortar, 0.95, shade)


def planks(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Boards with grain and butt joints. [size, size]"""
    boards = int(rng.choice([5, 6, 8]))
    y, x = np.mgrid[0:size, 0:size] / size
    board = (x * boards).astype(int)
    joint = rng.random(boards)[board]
    half = ((y + joint) % 1 < 0.5).astype(int)
    shade = rng.uniform(0.2, 0.85, (boards, 2))[board, half]
    grain = _smooth_noise(rng, 24, size)[:, ::-1] * 0.25
    seam = (x * boards % 1 < 0.08) | ((y + joint) % 0.5 < 0.02)
    return np.where(seam, 0.0, shade + grain - 0.12)


def checker(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Tiles of random shade, darker and lighter in turn. [size, size]"""
    cells = int(rng.choice([4, 6]))
    y, x = (np.mgrid[0:size, 0:size] * cells // size).astype(int)
    shade = rng.uniform(0.0, 0.4, (cells, cells))[y, x]
    return np.where((x + y) % 2 == 0, shade, 0.6 + shade)


def stripes(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Vertical bands of random width and shade, broken by noise. [size, size]"""
    edges = np.sort(rng.choice(np.arange(1, 16), 7, replace=False)) * size // 16
    band = np.searchsorted(edges, np.arange(size), side="right") % 8
    shade = rng.permutation(np.linspace(0.05, 0.95, 8))[band]
    return np.clip(shade[None, :] + 0.5 * (noise(rng, size) - 0.5), 0, 1)


def bars(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Regular dark and light bands with a little noise: the cloth of folding screens. [size, size]"""
    band = np.arange(size) * 8 // size % 2
    return 0.1 + 0.7 * band[None, :] + 0.2 * noise(rng, size)


def poster(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """A framed picture of random discs and bars. [size, size]"""
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.full((size, size), rng.choice([0.1, 0.9]))
    for _ in range(7):
        cx, cy, r = rng.uniform(0.1, 0.9, 3) * (1, 1, 0.3)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < r * r
        bar = (abs(x - cx) < r) & (abs(y - cy) < r / 3)
        image[disc if rng.random() < 0.6 else bar] = rng.choice([0.0, 0.3, 0.6, 1.0])
    frame = (np.minimum(np.minimum(x, 1 - x), np.minimum(y, 1 - y))) < 0.05
    image[frame] = 0.02
    return image


WALL_PATTERNS: tuple[Callable[..., Field], ...] = (noise, bricks, planks, checker, stripes)
FLOOR_PATTERNS: tuple[Callable[..., Field], ...] = (planks, checker, noise, bricks)


def tint(rng: np.random.Generator, dark: float = 0.2, light: float = 0.85) -> Field:
    """Two desaturated colours, for the dark and the light end of a pattern. [2, 3] in [0, 1]"""
    hue, saturation = rng.random(), rng.uniform(0.03, MAX_STRUCTURE_SATURATION)
    low = colorsys.hsv_to_rgb(hue, saturation, dark * rng.uniform(0.7, 1.2))
    high = colorsys.hsv_to_rgb(
        (hue + rng.uniform(-0.1, 0.1)) % 1.0, saturation * rng.uniform(0.3, 1.0), light * rng.uniform(0.85, 1.0)
    )
    return np.array([low, high])


def structure_image(
    rng: np.random.Generator, pattern: Callable[..., Field], size: int = TEXTURE_PX, flat: bool = False
) -> Image:
    """A structure texture: `pattern` between two desaturated colours, or their mean where `flat`."""
    field = np.clip(pattern(rng, size), 0, 1)
    low, high = tint(rng)
    if flat:
        field = np.full_like(field, 0.55)
    return np.round(255 * (low + (high - low) * field[..., None])).astype(np.uint8)


def object_grain(rng: np.random.Generator, kind: int, size: int = 32, flat: bool = False) -> Image:
    """Light grey grain for the six faces of a cube texture; multiplied with the object's colour. [6 * size, size, 3]"""
    noisy = np.concatenate([_smooth_noise(rng, 8, size) for _ in range(6)])  # drawn always: flat scenes stay the same otherwise
    if flat:
        field = np.ones_like(noisy)
    elif kind == 0:
        field = noisy
    elif kind == 1:
        field = np.tile((np.arange(size) * 6 // size % 2)[:, None], (6, size)).astype(float)
    else:
        y, x = np.mgrid[0 : 6 * size, 0:size] * 4 // size
        field = ((x + y) % 2).astype(float)
    grey = np.round(255 * (0.8 + 0.2 * field)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
