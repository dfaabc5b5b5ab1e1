"""A cache of latent tokens in the world frame: what a frame writes, how a camera reads it, and what both refuse.

Mirage (arXiv:2606.09828): each cell of an encoded frame is lifted by its depth and the camera's pose and keeps its latent; a
view is read by projecting tokens into its grid of cells (`read`), and no pixel lies between. Two policies:

    append.py    as published: tokens are concatenated, and nothing is forgotten
    bounded.py   a hard budget of bytes: tokens are merged, doubted, moved and, when it is full, thinned out

A token's place is kept as an offset from where its row began, in half precision: 2 mm at 4 m, 4 mm at 8 m, a few hundredths of
the cell that a surface so far away is seen through. Training keeps everything in float32 instead, and gradients reach through
what is written. A row is an episode: no token of one is ever seen from another.

Beside its latents a token knows whether it was observed, 1, or imagined, 0, as one more channel: what is merged of both is in
between, by evidence, so that a look soon makes an observation of what was imagined. Nothing else is decided by it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project, resize_intrinsics
from embodied_liftwm.memory.gaussians.lift import DOUBTFUL_SPREAD
from embodied_liftwm.memory.latents.read import NEAR_M, read_latents
from embodied_liftwm.protocols import Camera
from embodied_liftwm.tensor_tree import TensorTree

LATENT_STEP = 1.0 / 32.0
"""Latents kept in eight bits are multiples of this. Rounding errors are 0.009, a fiftieth of what latents vary by or less."""
LARGEST_LATENT = 127 * LATENT_STEP
"""Latents are kept within plus and minus this: twice what white, or black, comes to."""


class CellFrame(NamedTuple):
    """What a frame a row has to write, cell by cell."""

    depth: Tensor  # [B, h, w] z-depth in metres
    evidence: Tensor  # [B, h, w] 1/m^2 inverse variance of where the surface is; 0 where nothing is to be written
    latents: Tensor  # [B, D, h, w]
    camera: Camera  # by whom it was seen, of h * stride by w * stride pixels
    stride: int  # pixels a side of a cell
    observed: float | Tensor = 1.0  # how much of the frame, or of each cell [B, h, w], was observed and not imagined

    @property
    def cells(self) -> Camera:
        """The same camera with a pixel a cell."""
        intrinsics = resize_intrinsics(self.camera.intrinsics, 1.0 / self.stride)
        return Camera(intrinsics, self.camera.world_from_camera, *self.depth.shape[1:])

    def points(self) -> Tensor:
        """Where the cells' centres lie in the world, metres. [B, h * w, 3]"""
        cells = self.cells
        return back_project(self.depth, cells.intrinsics, cells.world_from_camera).flatten(1, 2)

    def tokens(self) -> tuple[Tensor, Tensor]:
        """Latents with `observed` [B, h * w, D + 1] and evidence [B, h * w] in the order of `points`."""
        latents = self.latents.flatten(2).mT
        if isinstance(self.observed, Tensor):
            return torch.cat([latents, self.observed.flatten(1)[..., None]], dim=-1), self.evidence.flatten(1)
        return F.pad(latents, (0, 1), value=self.observed), self.evidence.flatten(1)


class CacheRead(NamedTuple):
    """What the cells of each camera show, as `LatentRead`, and what of it was observed."""

    latents: Tensor  # [B * V, D, h, w]
    depths: Tensor  # [B * V, h, w]
    visible: Tensor  # [B * V, h, w]
    observed: Tensor  # [B * V, h, w] in [0, 1]: of what is visible, how much was observed; 0 where nothing is


@dataclass(frozen=True)
class LatentCache(TensorTree, ABC):
    """Tokens of B rows; see the two policies."""

    origin: Tensor  # [B, 3] metres, world: where the row's first camera stood, and what places are counted from

    @abstractmethod
    def write(self, frame: CellFrame) -> Self:
        """Take in a frame a row. Raises UserError for a frame that cannot be placed; this cache is as it was."""

    @abstractmethod
    def weights(self) -> Tensor:
        """How sure each token is, 0 for free slots. [B, N] in [0, 1]"""

    @abstractmethod
    def places(self, steps: Tensor | None = None) -> Tensor:
        """Where the tokens are from the origin, now or `steps` [B] from now; anything in free slots. [B, N, 3] metres"""

    @abstractmethod
    def stored_latents(self) -> Tensor:
        """The tokens' latents as they are kept, and `observed`; anything in free slots. [B, N, D + 1]"""

    def values(self) -> Tensor:
        """The tokens' latents, in the origin's dtype. [B, N, D]"""
        return self.stored_latents()[..., :-1].to(self.origin) * self._unit

    @property
    def latent_dim(self) -> int:
        """Channels of a latent, D."""
        return self.stored_latents().shape[-1] - 1

    def points(self) -> Tensor:
        """Where the tokens are now; anything in free slots. [B, N, 3] metres, world frame"""
        return self.origin[:, None] + self.places()

    def read(self, cameras: Camera, stride: int, steps: Tensor | None = None) -> CacheRead:
        """What V cameras a row see of the tokens, on their grids of cells.

        Args:
            cameras: B * V cameras, the views of a row one after another.
            stride: pixels a side of a cell.
            steps: how long after now, or before it, each looks. [B * V]
        """
        views = len(cameras.intrinsics) // len(self.origin)
        cameras = counted_from(self.origin.repeat_interleave(views, dim=0), cameras)
        cache = self
        if steps is not None and self.drifts():  # every view sees the tokens elsewhere
            cache = self.map(lambda t: t.repeat_interleave(views, dim=0))
        else:
            steps = None
        read = read_latents(cache.places(steps), cache.stored_latents(), cache.weights(), cameras, stride)
        latents = read.latents * self._unit
        return CacheRead(latents[:, :-1], read.depths, read.visible, latents[:, -1].clamp(0, 1))

    def drifts(self) -> bool:
        """Whether any token is believed to move."""
        return False

    @property
    def _unit(self) -> float:
        """What a stored latent is a multiple of."""
        return LATENT_STEP if self.stored_latents().dtype == torch.int8 else 1.0

    def _begun(self, frame: CellFrame, empty: Tensor) -> Self:
        """With the camera's place as the origin of rows that hold nothing, `empty` [B] bool."""
        here = frame.camera.world_from_camera[:, :3, 3].detach().to(self.origin)
        return replace(self, origin=torch.where(empty[:, None], here, self.origin))


def packed(latents: Tensor, dtype: torch.dtype) -> Tensor:
    """Latents as a cache of `dtype` stores them."""
    latents = latents.clamp(-LARGEST_LATENT, LARGEST_LATENT)
    return (latents / LATENT_STEP).round().to(dtype) if dtype == torch.int8 else latents.to(dtype)


def cell_evidence(depth: Tensor, spread: Tensor, camera: Camera, stride: int) -> Tensor:
    """Inverse variance of where the surfaces of cells are, as a constant; 0 where depth is too doubtful to be written.

    Args:
        depth: z-depth in metres. [B, h, w]
        spread: standard deviation of its logarithm. [B, h, w]
        camera: by whom it was seen.
        stride: pixels a side of a cell.

    Returns:
        [B, h, w] 1/m^2
    """
    footprint = depth * stride / camera.intrinsics[:, None, None, 0, 0]
    certainty = 1.0 / (footprint.square() + (depth * spread).square())
    return torch.where(spread < DOUBTFUL_SPREAD, certainty, 0.0).detach()


def check_frame(frame: CellFrame, cache: LatentCache) -> None:
    """Refuse what cannot be placed in the world, before anything is touched.

    Raises:
        UserError: shapes do not fit; a pose or a latent is not finite; a cell that is to be written has no depth, lies behind
            the camera or nearer than it can be seen again.
    """
    batch, channels, *grid = frame.latents.shape
    expected = [batch, *grid]
    if list(frame.depth.shape) != expected or list(frame.evidence.shape) != expected or batch != len(cache.origin):
        raise UserError(
            f"expected depth and evidence [{len(cache.origin)}, h, w] and latents [{len(cache.origin)}, D, h, w], got "
            f"{list(frame.depth.shape)}, {list(frame.evidence.shape)} and {list(frame.latents.shape)}"
        )
    if channels != cache.latent_dim:
        raise UserError(f"expected latents of {cache.latent_dim} channels, as the cache holds, got {channels}")
    poses = frame.camera.world_from_camera.isfinite().flatten(1).all(1)
    if not bool(poses.all()):
        raise UserError(f"pose of row {int((~poses).nonzero()[0])} is not finite: a frame without a place cannot be written")
    _check_cells(frame)


def _check_cells(frame: CellFrame) -> None:
    written = frame.evidence > 0
    depth = frame.depth
    wrong = {
        "is not finite": written & ~depth.isfinite(),
        "is zero: the cell has no depth": written & (depth == 0),
        "is negative: behind the camera": written & (depth < 0),
        f"is nearer than {NEAR_M} m": written & (depth < NEAR_M),
        "has a latent that is not finite": written & ~frame.latents.isfinite().all(1),
    }
    for what, where in wrong.items():
        if bool(where.any()):
            row, down, across = where.nonzero()[0].tolist()
            value = float(depth[row, down, across])
            raise UserError(
                f"depth {value:g} m of row {row}, cell ({down}, {across}) {what}; what is not to be written has evidence 0"
            )


def counted_from(origins: Tensor, cameras: Camera) -> Camera:
    """Cameras whose poses are counted from `origins` [B, 3]."""
    pose = cameras.world_from_camera
    return replace(cameras, world_from_camera=pose - F.pad(origins.to(pose).unsqueeze(-1), (3, 0, 0, 1)))
