"""The contract that all memories share: what a world model keeps, how a frame is written into it, how cameras read it.

A model is an encoder, a memory and a decoder (`world_model/liftwm.py`). Each memory is one folder, whose `memory.py` holds the
object that meets `Memory`; a user's own is named `model.memory=my_package:MyMemory` (docs/your_memory.md). What a memory keeps,
its *world*, is a `TensorTree` of B rows, one an episode: it is never changed, each call returns another, and it is stacked,
moved, saved and loaded like any tree (`world.save`, `world.load`).

Axis letters: B rows, V views a row, N primitives of M pieces each, H W pixels, h w cells of `stride` pixels a side, D latents.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from embodied_liftwm.protocols import Camera
from embodied_liftwm.tensor_tree import TensorTree

Grid = Literal["pixels", "cells", "picture"]
"""What a memory is read as, and so which networks stand about it: see `Memory.reads`."""
AREA_M2 = 0.02
"""Unit of `Points.area`."""


@dataclass(frozen=True)
class Motion(TensorTree):
    """What is believed of the motion of a frame's cells."""

    velocity: Tensor  # [B, 3, h, w] metres a step, world frame, if the cell moves
    moving: Tensor  # [B, h, w] probability that it does
    lone_depth: Tensor  # [B, h, w] metres: by what the frame looks like alone, since matching takes all for static


@dataclass(frozen=True)
class Lifted(TensorTree):
    """What a frame a row has to write, as the encoder sees it."""

    rgb: Tensor  # [B, 3, H, W] in [0, 1]
    depth: Tensor  # [B, h, w] z-depth of the cells, metres
    spread: Tensor  # [B, h, w] standard deviation of its logarithm; infinite where nothing is to be written
    latents: Tensor  # [B, D, h, w]
    opacities: Tensor  # [B, h, w] in (0, 1)
    motion: Motion | None = None  # where the encoder believes in any
    pixel_depth: Tensor | None = None  # [B, H, W] z-depth of the pixels, metres, for memories that ask for it
    imagined: Tensor | None = None  # [B, H, W] bool: pixels that show nothing that was observed; None: all was


@dataclass(frozen=True)
class Read(TensorTree):
    """What B * V cameras read of a memory, the views of a row one after another, on the grid that `Memory.reads` names."""

    features: Tensor  # [B * V, C, h, w] what is shown there, times `visible`
    visible: Tensor  # [B * V, h, w] in [0, 1]: how much of a place is covered
    depth: Tensor  # [B * V, h, w] z-depth in metres, times `visible`
    doubt: Tensor | None = None  # [B * V, 1, h, w] of where it is, about 0 at 5 cm, times `visible`
    observed: Tensor | None = None  # [B * V, h, w] in [0, 1]: of what is visible, how much was observed; None: all of it


@dataclass(frozen=True)
class Points(TensorTree):
    """All that a world keeps, in its smallest pieces: M of each of N primitives. Free ones hold anything."""

    places: Tensor  # [B, N, M, 3] metres, world frame, now
    weights: Tensor  # [B, N, M] how solid or sure each is, in [0, 1]; 0 for free ones
    area: Tensor  # [B, N, M] how much surface, in AREA_M2; 0 for free ones
    features: Tensor  # [B, N, M, D] latents; D is 0 where only colours are kept
    rgb: Tensor | None = None  # [B, N, M, 3] in [0, 1]; None where only latents are kept: the decoder knows their colours


class Bytes(NamedTuple):
    """What a world costs: all of its tensors, and nothing else of a model's state."""

    occupied: int  # of slots that hold something, and of what there is once a row
    allocated: int  # of all slots
    grows: bool  # with what is written; else all is taken from the start

    @property
    def charged(self) -> int:
        """The bytes that count: all of a budget; of what grows what is filled, without the room to grow."""
        return self.occupied if self.grows else self.allocated

    @staticmethod
    def of(world: TensorTree, occupied: Tensor, slots: TensorTree | None = None, grows: bool = False) -> Bytes:
        """Of a world whose tensors [B, N, ...] in `slots` (itself, if None) have a slot where `occupied` [B, N] is true."""
        tensors = [t for t in (slots or world).named_tensors().values() if t.dim() > 1 and t.shape[1] == occupied.shape[1]]
        slot = sum(t.shape[2:].numel() * t.element_size() for t in tensors)
        allocated = world.nbytes()
        return Bytes(allocated - int((~occupied).sum()) * slot, allocated, grows)


W = TypeVar("W", bound=TensorTree)


class Memory(Protocol[W]):
    """What a world model keeps. Derive from it: what needs no more than its default is left as it is.

    `reads` says on what grid, and of what, and with that how it is decoded:

        pixels   colours and latents, C = 3 + D, of every pixel: refined by the decoder of surfaces
        cells    latents, C = D, of every cell: painted by the decoder of latents; what is imagined is written as latents too
        picture  colours, C = 3, of every pixel: encoded again, and then painted as cells are
    """

    reads: Grid = "pixels"
    takes_pixel_depth: bool = False
    """Whether `Lifted.pixel_depth` is to be there; it costs a few milliseconds a frame."""
    random_latents: bool = False
    """Whether latents are drawn from their posterior in training, and held against what the memory lets expect of them."""

    @abstractmethod
    def empty(self, batch_size: int) -> W:
        """A world that remembers nothing."""
        ...

    @abstractmethod
    def write(self, world: W, lifted: Lifted, camera: Camera) -> W:
        """Take in what B cameras see. Raises UserError for a frame that cannot be placed."""
        ...

    @abstractmethod
    def read(self, world: W, cameras: Camera) -> Read:
        """What V cameras a row see of it now, those of a row one after another."""
        ...

    @abstractmethod
    def points(self, world: W) -> Points:
        """Everything that is kept, to draw, to look for goals in, to plan on."""
        ...

    @abstractmethod
    def nbytes(self, world: W) -> Bytes:
        """What it costs."""
        ...

    def advance(self, world: W, steps: Tensor) -> W:
        """Let `steps` [B] go by, or back: what is known to move, moves."""
        return world

    def read_at(self, world: W, cameras: Camera, steps: Tensor) -> Read:
        """`read`, each camera so many steps [B * V] later, or before."""
        return self.read(world, cameras)

    def empty_to_train(self, batch_size: int, frames: int) -> W:
        """A world to write `frames` frames into with gradients: in full precision, and the least that training has to carry."""
        return self.empty(batch_size)

    def resize(self, size: int) -> None:
        """Let worlds that are made from now on keep so much, in the unit of the budget; weights do not depend on it."""
        return


class MemoryModule(nn.Module):
    """A memory that is part of a network: it makes its tensors where, and of the dtype that, the network's weights are."""

    like: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("like", torch.zeros(()), persistent=False)
