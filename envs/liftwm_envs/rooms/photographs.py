"""Photographs of walls, floors and ceilings: those that come with MiniWorld (Apache-2.0), where it is installed."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np

from liftwm_envs.engine import mujoco
from liftwm_envs.errors import EnvError
from liftwm_envs.rooms.textures import Image

PHOTO_PX = 256  # two metres of a wall
PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "wall": (
        "brick_wall_1", "cinder_blocks_1", "concrete_1", "concrete_2", "concrete_tiles_1", "drywall_1", "marble_1", "marble_2",
        "rock_1", "stucco_1", "wood_1", "wood_2",
    ),
    "floor": ("asphalt_1", "concrete_1", "floor_tiles_bw_1", "marble_1", "wood_1", "wood_planks_1"),
    "ceiling": ("ceiling_tile_noborder_1", "ceiling_tiles_1", "concrete_4", "stucco_1"),
    "screen": ("cardboard_1", "cardboard_3"),
}  # fmt: skip
"""What may cover which surface: files of MiniWorld that repeat without a seam."""


@cache
def folder() -> Path:
    """Where MiniWorld's photographs are, which is not imported for them.

    Raises:
        EnvError: it is not installed.
    """
    found = importlib.util.find_spec("miniworld")
    if found is None or not found.submodule_search_locations:
        raise EnvError("texture=photographs: they come with MiniWorld, which is not installed: pip install miniworld")
    return Path(found.submodule_search_locations[0]) / "textures"


@cache
def photograph(name: str) -> Image:
    """One of them, decoded by MuJoCo once a process and taken down to [PHOTO_PX, PHOTO_PX, 3]."""
    spec = mujoco.MjSpec()
    spec.add_texture(name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, file=str(folder() / f"{name}.png"))
    model = spec.compile()
    height, width, channels = (int(of[0]) for of in (model.tex_height, model.tex_width, model.tex_nchannel))
    pixels = model.tex_data.reshape(height, width, channels)[..., :3]
    blocks = pixels.reshape(PHOTO_PX, height // PHOTO_PX, PHOTO_PX, width // PHOTO_PX, 3)
    return blocks.mean((1, 3)).round().astype(np.uint8)


def draw_photograph(rng: np.random.Generator, surface: str) -> Image:
    """Any that may cover a kind of surface."""
    names = PHOTOGRAPHS[surface]
    return photograph(names[int(rng.integers(len(names)))])
