"""What a prior is given, what it returns, and in which convention.

Axis letters: F frames of an episode, K of them (or pairs, or views), M matches, H W image. Everything is at the resolution and
in the pixel coordinates of the frames it speaks of (centres at half-integers); a prior that works at another size brings
its answer back. Confidence is in [0, 1], 0 where the prior says nothing, and multiplies a log-likelihood.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from embodied_liftwm.errors import UserError

DepthConvention = Literal["metric", "scale_free", "affine_inverse"]
"""Of depth maps: z-depth in metres; z-depth up to a factor a map; inverse z-depth up to a positive scale and a shift a map."""
ScaleConvention = Literal["metric", "scale_free"]
"""Of pointmaps: metres; or up to one factor a pair."""
Kind = Literal["depth", "normals", "points", "matches", "views"]
"""Kinds of pseudo-observations: the fields of `PseudoObservations`."""


class Clip(NamedTuple):
    """Frames of one episode as the agent saw and believed them; nothing of `truth/`."""

    rgb: Tensor  # [F, 3, H, W] float32 in [0, 1]
    intrinsics: Tensor  # [3, 3] pixels
    world_from_camera: Tensor  # [F, 4, 4] OpenCV poses, metres


@dataclass(frozen=True)
class DepthMaps:
    """Depth of whole frames."""

    values: Tensor  # [K, H, W] float32, as `convention` says
    confidence: Tensor  # [K, H, W]
    frames: Tensor  # [K] int64: of which frame of the clip
    convention: DepthConvention


@dataclass(frozen=True)
class NormalMaps:
    """Surface normals of whole frames."""

    values: Tensor  # [K, 3, H, W] unit, camera frame, towards the camera
    confidence: Tensor  # [K, H, W]
    frames: Tensor  # [K] int64


@dataclass(frozen=True)
class PointMaps:
    """Where the pixels of a frame lie in the frame of a reference camera."""

    points: Tensor  # [K, H, W, 3] in the camera frame of `references`
    confidence: Tensor  # [K, H, W]
    frames: Tensor  # [K] int64: whose pixels
    references: Tensor  # [K] int64: in whose camera frame; may be the frame itself
    convention: ScaleConvention


@dataclass(frozen=True)
class Matches:
    """Pixels of two frames that show one point."""

    pixels: Tensor  # [M, 2, 2] float32 (u, v) in the first and in the second frame
    confidence: Tensor  # [M]
    frames: Tensor  # [M, 2] int64


@dataclass(frozen=True)
class NovelViews:
    """What cameras would see where the agent never was."""

    rgb: Tensor  # [K, 3, H, W] float32 in [0, 1]
    confidence: Tensor  # [K, H, W]
    world_from_camera: Tensor  # [K, 4, 4]; the intrinsics are the clip's
    frames: Tensor  # [K] int64: the frame that it was imagined from


@dataclass(frozen=True)
class PseudoObservations:
    """What a prior says of a clip; None of what it does not give."""

    depth: DepthMaps | None = None
    normals: NormalMaps | None = None
    points: PointMaps | None = None
    matches: Matches | None = None
    views: NovelViews | None = None

    def given(self) -> dict[str, DepthMaps | NormalMaps | PointMaps | Matches | NovelViews]:
        """What is there, by kind."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True)
class PriorOptions:
    """How a prior is opened."""

    weights: str = ""  # hub id, file or folder; empty for the prior's own choice
    code: str = ""  # folder of the model's public repository, for those that no registry has
    device: str = "cpu"
    batch_size: int = 8  # frames or pairs at once
    seed: int = 0  # of priors that draw
    prompt: str = "an indoor room"  # of priors that are told in words what to draw
    accept_license: bool = False  # of models that may not be used commercially


class Prior(Protocol):
    """An opened teacher."""

    def fingerprint(self) -> str:
        """Names the model, its weights (by hash) and its settings: what decides whether a cache is its own. 16 hex digits"""
        ...

    def observe(self, clip: Clip) -> PseudoObservations:
        """Say what it sees in a clip; float32 on the CPU, deterministic for the same clip."""
        ...


@dataclass(frozen=True)
class PriorCard:
    """What is known of a prior without opening it."""

    name: str
    gives: tuple[Kind, ...]
    about: str  # one line: the model, and the paper
    licence: str  # of code and default weights, SPDX where there is one
    non_commercial: bool
    missing: Callable[[PriorOptions], str]  # what this machine lacks, as one line that says what to do; "" where it is ready
    open: Callable[[PriorOptions], Prior]  # raises UserError with that line


def check_licence(card: PriorCard, options: PriorOptions) -> None:
    """Name a non-commercial licence before the model is used.

    Raises:
        UserError: it has not been accepted.
    """
    if card.non_commercial and not options.accept_license:
        raise UserError(
            f"prior {card.name}: its licence is {card.licence}, which forbids commercial use; "
            "set accept_license=true if your use is none"
        )
