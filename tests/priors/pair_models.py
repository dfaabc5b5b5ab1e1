"""Clips of toy rooms, and DUSt3R and MASt3R built tiny and random with their real classes, for the tests of both."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.geometry import back_project, inverse_pose, transform
from embodied_liftwm.priors.contract import Clip, PriorOptions
from embodied_liftwm.priors.geometric.stereo_models import StereoModel, import_class, what_is_missing
from tests import toy_room

SIZE = 32
SMALL: dict[str, Any] = {
    "pos_embed": "RoPE100", "patch_size": 16, "img_size": (SIZE, SIZE), "landscape_only": False,
    "enc_embed_dim": 16, "enc_depth": 1, "enc_num_heads": 2, "dec_embed_dim": 16, "dec_num_heads": 2,
}  # fmt: skip
DUST3R_KWARGS = {**SMALL, "dec_depth": 2}
MAST3R_KWARGS = {
    **SMALL, "dec_depth": 10, "output_mode": "pts3d+desc24", "head_type": "catmlp+dpt", "two_confs": True,
    "desc_conf_mode": ("exp", 0, math.inf),
}  # fmt: skip


def toy_clip(frames: int = 5, size: int = SIZE, scene: int = 0) -> Clip:
    """A drive through a toy room."""
    episode = toy_room.episode(scene, frames - 1, size)
    rgb = torch.from_numpy(episode.rgb).permute(0, 3, 1, 2) / 255.0
    return Clip(rgb, torch.from_numpy(episode.intrinsics), torch.from_numpy(episode.world_from_camera))


def true_points(poses: Tensor, number: int, reference: int, size: int) -> Tensor:
    """What frame `number` of a toy clip of scene 0 sees, at any size, in the camera frame of `reference`. [size, size, 3]"""
    _, depth = toy_room.render(poses[number].numpy(), size, 0)
    intrinsics = torch.from_numpy(toy_room.intrinsics(size))[None].double()
    world = back_project(torch.from_numpy(depth)[None], intrinsics, poses[number : number + 1].double())
    return transform(inverse_pose(poses[reference : reference + 1].double()), world)[0].float()


def true_answer(clip: Clip, pair: tuple[int, int], size: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two dictionaries that a perfect model would return for one pair, at `size`; confidence is 1 + exp(0)."""
    first, second = (true_points(clip.world_from_camera, number, pair[0], size)[None] for number in pair)
    confidence = torch.full((1, size, size), 2.0)
    return {"pts3d": first, "conf": confidence}, {"pts3d_in_other_view": second, "conf": confidence}


def save_tiny(model: StereoModel, kwargs: dict[str, Any], folder: Path, seed: int = 0) -> str:
    """Build the real class with random weights, save it in its own format; skip the test where its code cannot be had."""
    lacks = what_is_missing(model, PriorOptions(weights=str(Path(__file__).parent)))
    if "code" in lacks:
        pytest.skip(lacks)
    torch.manual_seed(seed)
    import_class(model, "")(**kwargs).save_pretrained(folder)
    return str(folder)


def side(images: Tensor, name: str) -> dict[str, Any]:
    """One side of a pair in the format of the models' own `load_images`: images [B, 3, h, w] in [0, 1]."""
    shape = np.array([images.shape[-2:]] * len(images), np.int32)
    return {"img": (images - 0.5) / 0.5, "true_shape": torch.from_numpy(shape), "idx": [0], "instance": [name]}
