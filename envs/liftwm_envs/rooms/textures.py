"""Image textures made in numpy, so that every surface tells where it is.

Flat colours leave depth unidentifiable from video, so structure (walls, floors, ceilings, posters) carries strong luminance
patterns. Hue belongs to objects: structure stays below a saturation of 0.25, far from every colour of the object palette.
Textures tile without a seam and are uint8 [size, size, 3].
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Field = NDArray[np.float32]
TEXTURE_PX = 96  # two metres of a wall
POSTER_PX = 64  # some 80 cm
MAX_STRUCTURE_SATURATION = 0.22
_RAMP = np.linspace(0, 1, 256)[:, None]
_OCTAVES = ((4, 1.0), (8, 0.8), (16, 0.6), (32, 0.3))


@cache
def _weights(cells: int, size: int) -> Field:
    """What each of `cells` periodic grid values adds to each of `size` pixels along a line. [size, cells]"""
    at = np.arange(size) * cells / size
    low = at.astype(int)
    frac = at - low
    frac = frac * frac * (3 - 2 * frac)
    weights = np.zeros((size, cells), np.float32)
    weights[np.arange(size), low] = 1 - frac
    weights[np.arange(size), (low + 1) % cells] += frac
    return weights


@cache
def _octave_weights(size: int) -> Field:
    """`_weights` of all octaves side by side. [size, sum of cells]"""
    return np.concatenate([_weights(cells, size) for cells, _ in _OCTAVES], 1)


def _smooth_noise(rng: np.random.Generator, cells: int, size: int) -> Field:
    """Periodic bilinear value noise in [0, 1]. [size, size]"""
    weights = _weights(cells, size)
    return weights @ rng.random((cells, cells)).astype(np.float32) @ weights.T


def noise(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Cloudy noise of four octaves in [0, 1]. [size, size]"""
    rows = [_weights(cells, size) @ (gain * rng.random((cells, cells))).astype(np.float32) for cells, gain in _OCTAVES]
    total = np.concatenate(rows, 1) @ _octave_weights(size).T
    low = total.min()
    return (total - low) / (total.max() - low)


@cache
def _brick_of(rows: int, columns: int, size: int) -> NDArray[np.intp]:
    """Number of the brick at every pixel, `rows * columns` for mortar. [size, size]"""
    y, x = np.mgrid[0:size, 0:size] / size
    row = (y * rows).astype(int)
    shifted = (x * columns + 0.5 * (row % 2)) % columns
    mortar = (y * rows % 1 < 0.12) | (shifted % 1 < 0.07)
    return np.where(mortar, rows * columns, row * columns + shifted.astype(int))


def bricks(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Running-bond bricks, each of its own shade, with light mortar. [size, size]"""
    rows, columns = int(rng.choice([6, 8])), 4
    shades = np.append(rng.uniform(0.1, 0.75, rows * columns), 0.95).astype(np.float32)
    return shades[_brick_of(rows, columns, size)]


def planks(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Boards with grain and butt joints. [size, size]"""
    boards = int(rng.choice([5, 6, 8]))
    x = np.arange(size) / size
    down = x[:, None] + rng.random(boards)  # along each board
    half = (down % 1 < 0.5).astype(int)
    shade = rng.uniform(0.2, 0.85, (boards, 2))[np.arange(boards), half] - 0.12
    shade[down % 0.5 < 0.02] = -1.0  # stays dark under the grain
    grain = _smooth_noise(rng, 24, size)[:, ::-1] * np.float32(0.25)
    grain += shade.astype(np.float32)[:, (x * boards).astype(int)]
    grain[:, x * boards % 1 < 0.08] = 0.0
    return grain


@cache
def _tile_of(cells: int, size: int) -> NDArray[np.intp]:
    """Number of the tile at every pixel. [size, size]"""
    at = np.arange(size) * cells // size
    return at[:, None] * cells + at


def checker(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Tiles of random shade, darker and lighter in turn. [size, size]"""
    cells = int(rng.choice([4, 6]))
    shade = rng.uniform(0.0, 0.4, (cells, cells)) + 0.6 * (np.indices((cells, cells)).sum(0) % 2)
    return shade.ravel().astype(np.float32)[_tile_of(cells, size)]


def stripes(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Vertical bands of random width and shade, broken by noise. [size, size]"""
    edges = np.sort(rng.choice(np.arange(1, 16), 7, replace=False)) * size // 16
    band = np.searchsorted(edges, np.arange(size), side="right") % 8
    shade = rng.permutation(np.linspace(0.05, 0.95, 8))[band]
    return np.float32(0.5) * noise(rng, size) + (shade - 0.25).astype(np.float32)


def bars(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """Regular dark and light bands with a little noise: the cloth of folding screens. [size, size]"""
    band = np.arange(size) * 8 // size % 2
    return np.float32(0.2) * noise(rng, size) + (0.1 + 0.7 * band).astype(np.float32)


def poster(rng: np.random.Generator, size: int = TEXTURE_PX) -> Field:
    """A framed picture of random discs and bars. [size, size]"""
    at = np.arange(size) / size
    image = np.full((size, size), 0.1 if rng.random() < 0.5 else 0.9, np.float32)
    for (x, y, radius), (shade, kind) in zip(rng.uniform(0.1, 0.9, (7, 3)), rng.random((7, 2)), strict=True):
        radius *= 0.3
        value = (0.0, 0.3, 0.6, 1.0)[int(4 * shade)]
        if kind < 0.6:
            np.putmask(image, ((at - y) ** 2)[:, None] + (at - x) ** 2 < radius * radius, value)
        else:
            left, right, top, bottom = (int(size * v) for v in (x - radius, x + radius, y - radius / 3, y + radius / 3))
            image[max(top, 0) : bottom, max(left, 0) : right] = value
    edge = np.minimum(at, 1 - at) < 0.05
    image[edge] = image[:, edge] = 0.02
    return image


WALL_PATTERNS: tuple[Callable[..., Field], ...] = (noise, bricks, planks, checker, stripes)
FLOOR_PATTERNS: tuple[Callable[..., Field], ...] = (planks, checker, noise, bricks)


def tint(
    rng: np.random.Generator, dark: float = 0.2, light: float = 0.85, most_saturation: float = MAX_STRUCTURE_SATURATION
) -> NDArray[np.float64]:
    """Two desaturated colours, for the dark and the light end of a pattern. [2, 3] in [0, 1]"""
    hue, saturation = rng.random(), rng.uniform(0.03, most_saturation)
    low = colorsys.hsv_to_rgb(hue, saturation, dark * rng.uniform(0.7, 1.2))
    high = colorsys.hsv_to_rgb(
        (hue + rng.uniform(-0.1, 0.1)) % 1.0, saturation * rng.uniform(0.3, 1.0), light * rng.uniform(0.85, 1.0)
    )
    return np.array([low, high])


def structure_image(
    rng: np.random.Generator,
    pattern: Callable[..., Field],
    size: int = TEXTURE_PX,
    flat: bool = False,
    most_saturation: float = MAX_STRUCTURE_SATURATION,
) -> Image:
    """A structure texture: `pattern` between two desaturated colours, or their mean where `flat`."""
    field = pattern(rng, size)
    low, high = tint(rng, most_saturation=most_saturation)
    if flat:
        field = np.full_like(field, 0.55)
    levels = np.round(255 * (low + (high - low) * _RAMP)).astype(np.uint8)
    return levels.take((np.clip(field, 0, 1) * 255 + 0.5).astype(np.intp), axis=0)


@cache
def object_grain(kind: int, size: int = 32, flat: bool = False) -> Image:
    """Light grey grain for the six faces of a cube texture; multiplied with the object's colour. [6 * size, size, 3]

    The same in every scene, so that it is made and uploaded once a process.
    """
    if flat:
        field = np.ones((6 * size, size))
    elif kind == 0:
        rng = np.random.default_rng(kind)
        field = np.concatenate([_smooth_noise(rng, 8, size) for _ in range(6)]).astype(float)
    elif kind == 1:
        field = np.tile((np.arange(size) * 6 // size % 2)[:, None], (6, size)).astype(float)
    else:
        y, x = np.mgrid[0 : 6 * size, 0:size] * 4 // size
        field = ((x + y) % 2).astype(float)
    grey = np.round(255 * (0.8 + 0.2 * field)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)
