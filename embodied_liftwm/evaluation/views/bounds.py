"""What a trained model stands between, made of it at evaluation: initial weights, frames alone, and the true depth told."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.views.episodes import truth_of
from embodied_liftwm.memory.frames.memory import FrameMemory
from embodied_liftwm.protocols import Camera, Observation, View
from embodied_liftwm.tensor_tree import TensorTree
from embodied_liftwm.world_model.build import BASELINES, build_model
from embodied_liftwm.world_model.decoders.surface import SplatDecoder
from embodied_liftwm.world_model.encoder import Encoder
from embodied_liftwm.world_model.liftwm import LiftWM, Networks

TRUE_SPREAD = 0.01
"""Doubt of a true depth, as the standard deviation of its logarithm: a cell still covers a piece of a surface."""
SOLID = 0.98
"""Opacity of a surface whose depth is known; a model makes primitives fainter where it doubts their depth."""
ONE_SURFACE = 1.1
"""Middle depths of a cell that differ by less than this ratio belong to one surface."""


class NoDepthError(UserError):
    """A model keeps no depth that it could be told."""


class LastFrame:
    """The world model `none`: a trained model whose state is emptied before each frame that it observes."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def initial_state(self, batch_size: int) -> TensorTree:
        return self.model.initial_state(batch_size)

    def observe(self, state: TensorTree, observation: Observation) -> TensorTree:
        alone = replace(observation, is_first=torch.ones_like(observation.is_first))
        return self.model.observe(self.model.initial_state(len(observation.rgb)), alone)

    def render(self, state: TensorTree, camera: Camera) -> View:
        return self.model.render(state, camera)


def untrained(model: Any, seed: int = 0) -> Any:
    """The world model `untrained`: a model's architecture with its initial weights, and only what the body does learned.

    What is left to it is hand-built: matching of frames by their colours, and the memory. Training brings the difference to it.

    Args:
        model: one of ours.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    fresh = build_model(model.config, model.shapes).to(next(model.parameters()).device).eval()
    fresh.ego_motion.load_state_dict(model.ego_motion.state_dict())
    return fresh


def can_match(config: ModelConfig) -> bool:
    """Whether there are rows `matching` and `frame_warp` for models of this kind: those that write depth."""
    return config.memory not in BASELINES


def matching(model: Any) -> Any:
    """The world model `matching`: the same memory, without any network: depth is what earlier frames say of each cell.

    Sweep and semi-global matching with their hand-set weights, and where they are silent a broad prior around the middle of a
    room, the same everywhere. The last layer of the encoder's network is silenced, so that no frame's looks count; fusion and
    decoder have their initial weights, which are the Kalman filter and the colours as they lie in the memory.

    Args:
        model: one of ours for which `can_match` holds.
    """
    sources = model.config.stereo_sources or ModelConfig().stereo_sources
    config = replace(model.config, stereo_sources=sources, matching="sweep")
    torch.manual_seed(0)
    found: Any = build_model(config, model.shapes).to(next(model.parameters()).device).eval()
    found.ego_motion.load_state_dict(model.ego_motion.state_dict())
    torch.nn.init.zeros_(found.encoder.head.weight)
    return found


def frame_warp(model: Any) -> Any:
    """The world model `frame_warp`: the frames that a trained model saw, with the depth that it has of each, warped into views.

    Nothing is learned for the memory (`memory/frames/memory.py`); the decoder has its initial weights, which show what is read.

    Args:
        model: one of ours for which `can_match` holds.
    """
    config, networks = replace(model.config, movers=0), Networks(Encoder, SplatDecoder)
    torch.manual_seed(0)
    found: Any = LiftWM(config, model.shapes, networks, lambda: FrameMemory(config, model.image_size))
    found.encoder, found.ego_motion = model.encoder, model.ego_motion
    return found.to(next(model.parameters()).device).eval()


def with_true_depth(model: Any, episodes: Sequence[Episode]) -> Any:
    """The world model `oracle`: a trained model that lifts the true depth of the episodes evaluated instead of its own.

    All else is the model's own: latents, memory, decoder. It is the ceiling of what better depth can bring to this model. A
    frame's depth is looked up by the frame and the pose that the agent believes.

    Args:
        model: whose `encode` gives `depth`, `spread` and `opacities` on a grid of cells, as `LiftWM` does.
        episodes: with truth.

    Returns:
        A copy of the model; observing a frame that is not of these episodes raises KeyError, and NoDepthError where the model
        keeps no depth, as `recurrent` and `context` do not.
    """
    known = KnownDepth()
    for i, episode in enumerate(episodes):
        for t in range(len(episode.rgb)):
            known.tell(episode.rgb[t], episode.world_from_camera[t], truth_of(episode, i).depth[t])
    return with_known_depth(model, known)


class KnownDepth:
    """True depths of frames, found by what an agent has of a frame: its pixels and the pose that it believes."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes], np.ndarray] = {}

    def tell(self, rgb: np.ndarray, pose: np.ndarray, depth: np.ndarray) -> None:
        """Keep the depth [H, W] of a frame [H, W, 3] uint8 with a believed pose [4, 4]."""
        self._known[_key(rgb, pose)] = depth

    def forget(self) -> None:
        """A new episode begins."""
        self._known.clear()

    def __call__(self, rgb: Tensor, camera: Camera) -> Tensor:
        """Depth of frames [B, 3, H, W] in [0, 1]. [B, H, W] metres; KeyError for one that was not told."""
        frames = (rgb * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        poses = camera.world_from_camera.cpu().numpy()
        found = [self._known[_key(frame, pose)].astype(np.float32) for frame, pose in zip(frames, poses, strict=True)]
        return torch.from_numpy(np.stack(found)).to(rgb)


def with_known_depth(model: Any, true_depth: Callable[[Tensor, Camera], Tensor]) -> Any:
    """`with_true_depth`, of frames that may come later.

    Args:
        model: as there.
        true_depth: gives the depth of frames [B, 3, H, W] and cameras. [B, H, W] metres, 0 where it knows none
    """
    told, encode = copy.copy(model), model.encode

    def encode_with_truth(rgb: Tensor, camera: Camera, *sources: Any) -> Any:
        encoding = encode(rgb, camera, *sources)
        if not hasattr(encoding, "depth"):
            raise NoDepthError(f"oracle: {type(model).__name__} keeps no depth that it could be told")
        depth = cell_depth(true_depth(rgb, camera), rgb.shape[-1] // encoding.depth.shape[-1])
        valid = depth > 0
        return encoding._replace(
            depth=torch.where(valid, depth, encoding.depth),
            spread=torch.where(valid, TRUE_SPREAD, encoding.spread),
            opacities=torch.where(valid, encoding.opacities.clamp(min=SOLID), encoding.opacities),
        )

    def true_pixels(encoding: Any, observation: Observation) -> Tensor:
        true, told_of_cells = true_depth(observation.rgb, observation.camera), model.pixel_depth(encoding, observation)
        return torch.where(true > 0, true, told_of_cells)

    told.encode = encode_with_truth
    if getattr(getattr(model, "config", None), "scale_prior", 0.0):
        told.config = replace(model.config, scale_prior=0.0)  # who knows depth knows the unit
    if hasattr(model, "pixel_depth"):
        told.pixel_depth = true_pixels
    return told


def _key(frame: np.ndarray, pose: np.ndarray) -> tuple[bytes, bytes]:
    return np.ascontiguousarray(frame).tobytes(), np.asarray(pose, dtype=np.float32).tobytes()


def cell_depth(depth: Tensor, stride: int) -> Tensor:
    """True depth at the centres of cells: of the one surface that fills most of a cell, the nearer one of two halves.

    The two middle depths of a cell are averaged in inverse depth, which is linear over the image of a plane, where they belong
    to one surface; a mean over two would lie on neither.

    Args:
        depth: metres, 0 where invalid. [B, H, W]
        stride: pixels a side of a cell.

    Returns:
        [B, H / stride, W / stride], 0 where a pixel of the cell is invalid.
    """
    cells = depth.unfold(1, stride, stride).unfold(2, stride, stride).flatten(3).sort(-1).values
    count = cells.shape[-1]
    near, far = cells[..., (count - 1) // 2], cells[..., count // 2]
    middle = 2.0 / (1.0 / near.clamp(min=1e-6) + 1.0 / far.clamp(min=1e-6))
    chosen = torch.where(far < ONE_SURFACE * near, middle, near)
    return torch.where(cells[..., 0] > 0, chosen, 0.0)
