"""The world model: what it remembers with, and how large it is. Keys of one memory are a group by the memory's name."""

from __future__ import annotations

import difflib
import typing
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Self

from embodied_liftwm.config.checks import bounded, check_fields, shown
from embodied_liftwm.errors import UserError

LEAST_BUDGET = 16
"""Primitives that a state holds at least."""
MOST_STATE_BYTES = 2**32
"""Of the primitives of one state."""
STATE_NUMBERS = 8
"""That a texel or Gaussian holds beside its latents, about: colour, depth, weight and the like."""
MOST_CHANNELS = 4096
"""Of the widest stage of encoder and decoder."""
MEMORIES = ("patches", "gaussians", "latent_append", "latent_bounded", "recurrent", "rgb_cloud", "context")
"""Those that come with the package; `world_model/build.py` knows what they are."""
LEAST_LATENT_DIM = 4
"""Latent channels where latents alone carry colour, which takes three of them."""
SIZES = {"patches": "budget", "gaussians": "budget", "latent_bounded": "bytes"}
"""Memories with a budget, and the key of it."""
MOVED = {
    "budget": "patches.budget", "texels": "patches.texels", "memory_bytes": "latent_bounded.bytes",
    "recurrent_dim": "recurrent.units", "voxel_m": "rgb_cloud.voxel_m", "context_views": "context.views",
}  # fmt: skip
"""Keys of `model` that older versions had, and where they are now."""


@dataclass(frozen=True)
class PatchesConfig:
    """Relief patches."""

    budget: int = bounded(512, LEAST_BUDGET, 2**20)  # patches the state holds, N
    texels: int = bounded(8, 3, 64)  # texels a side of a patch

    def __post_init__(self) -> None:
        check_fields(self, "model.patches.")


@dataclass(frozen=True)
class GaussiansConfig:
    """Plain Gaussians."""

    budget: int = bounded(512, LEAST_BUDGET, 2**20)  # Gaussians the state holds, N

    def __post_init__(self) -> None:
        check_fields(self, "model.gaussians.")


@dataclass(frozen=True)
class LatentBoundedConfig:
    """The bounded cache of latent tokens."""

    bytes: int = bounded(2**20, 1, 2**36)  # what the cache of an episode may take

    def __post_init__(self) -> None:
        check_fields(self, "model.latent_bounded.")


@dataclass(frozen=True)
class RgbCloudConfig:
    """The point cloud."""

    voxel_m: float = bounded(0.01, 0.0001, 10)  # edge of the voxels in each of which one point is kept, metres

    def __post_init__(self) -> None:
        check_fields(self, "model.rgb_cloud.")


@dataclass(frozen=True)
class RecurrentConfig:
    """The 2D baseline."""

    units: int = bounded(512, 1, 8192)  # of its GRU

    def __post_init__(self) -> None:
        check_fields(self, "model.recurrent.")


@dataclass(frozen=True)
class ContextConfig:
    """Raw frames."""

    views: int = bounded(4, 1, 256)  # frames that a view is read from

    def __post_init__(self) -> None:
        check_fields(self, "model.context.")


@dataclass(frozen=True)
class ModelConfig:
    """The world model: what it remembers with, and how large it is."""

    memory: str = "patches"  # patches: 3D primitives of texels each; gaussians: plain ones; latent_append, latent_bounded: a
    # cache of latent tokens that grows, or that is bounded; rgb_cloud: a point cloud of all pixels; recurrent: the 2D baseline;
    # context: all frames as they were; or one of your own, my_package:MyMemory (docs/your_memory.md)
    patches: PatchesConfig = field(default_factory=PatchesConfig)
    gaussians: GaussiansConfig = field(default_factory=GaussiansConfig)
    latent_bounded: LatentBoundedConfig = field(default_factory=LatentBoundedConfig)
    rgb_cloud: RgbCloudConfig = field(default_factory=RgbCloudConfig)
    recurrent: RecurrentConfig = field(default_factory=RecurrentConfig)
    context: ContextConfig = field(default_factory=ContextConfig)
    latent_dim: int = bounded(4, 1, 256)  # latent channels of a texel, Gaussian or token, D
    stride: int = bounded(2, 1, 8)  # pixels a side of the image patch that becomes one primitive
    width: int = bounded(32, 8, 512)  # channels of the first encoder and decoder stage
    widest: int = bounded(4, 1, 16)  # times as many that their deeper stages have at most
    planes: int = bounded(40, 2, 512)  # depth hypotheses per cell, uniform in log-depth
    max_depth_m: float = bounded(10.0, 0.01, 1000)  # the farthest of them, metres
    min_depth_m: float = bounded(0.15, 0.001, 1000)  # and the nearest
    scale_prior: float = bounded(0.0, 0, 2)  # standard deviation of the logarithm of how large a world may be, beside those
    # learned from, before parallax tells; 0: depth is in metres, and so are the weights
    stereo_sources: int = bounded(6, 0, 64)  # recent frames that depth is triangulated with; 0 for monocular depth alone
    matching: Literal["sweep", "none"] = "sweep"  # how: by costs of depth planes, which hand-set rules give; or not, and only
    # attention asks those frames (model.epipolar_heads)
    movers: int = bounded(0, 0, 2**16)  # points that may move, beside the patches; 0 where the world stands still
    learned_fusion: bool = True  # learn what a look at a texel counts, and tell the decoder how sure the map is
    frame_moves_depth: bool = False  # let the splatted image move depth: where no term on several views does
    epipolar_heads: int = bounded(0, 0, 64)  # heads of the encoder's attention along epipolar lines of recent frames; 0: none

    def __post_init__(self) -> None:
        check_fields(self, "model.")
        if self.memory not in MEMORIES and ":" not in self.memory:
            near = difflib.get_close_matches(self.memory, MEMORIES, 1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(MEMORIES)}, or my_package:MyMemory"
            raise UserError(f"model.memory={shown(self.memory)}: {hint}")
        if self.min_depth_m >= self.max_depth_m:
            raise UserError(f"model.min_depth_m={self.min_depth_m}: must be below model.max_depth_m={self.max_depth_m}")
        if self.movers and self.memory != "patches":
            raise UserError(f"model.movers={self.movers}: things move beside patches only, not with model.memory={self.memory}")
        if self.scale_prior and (self.movers or not self.matches or self.memory in ("recurrent", "context")):
            why = "needs frames to match (model.stereo_sources, model.matching), a model that lifts, and things at rest"
            raise UserError(f"model.scale_prior={self.scale_prior}: {why}")
        if self.frame_moves_depth and self.memory in ("rgb_cloud", "context"):
            raise UserError(f"model.frame_moves_depth=True: no image moves depth with model.memory={self.memory}")
        if self.epipolar_heads and self.width % self.epipolar_heads:
            raise UserError(f"model.epipolar_heads={self.epipolar_heads}: must divide model.width={self.width}")
        if self.width * self.widest > MOST_CHANNELS:
            raise UserError(f"model.widest={self.widest}: with model.width={self.width} more than {MOST_CHANNELS} channels")
        texels = self.patches.texels**2 if self.memory == "patches" else 1
        size = 4 * self.primitives * texels * (self.latent_dim + STATE_NUMBERS)
        if size > MOST_STATE_BYTES:
            key = f"model.{self.memory}.budget={self.primitives}"
            raise UserError(f"{key}: with these sizes a state of {size / 2**30:.0f} GiB, more than 4")
        if self.width % 8:
            raise UserError(f"model.width={self.width}: must be a multiple of 8")
        if self.memory.startswith("latent_") and self.latent_dim < LEAST_LATENT_DIM:
            least = f"{LEAST_LATENT_DIM} with model.memory={self.memory}"
            raise UserError(f"model.latent_dim={self.latent_dim}: must be at least {least}")
        if self.stride not in (1, 2, 4, 8):
            raise UserError(f"model.stride={self.stride}: must be 1, 2, 4 or 8")

    @property
    def matches(self) -> bool:
        """Whether depth is told by matching."""
        return self.stereo_sources > 0 and self.matching == "sweep"

    @property
    def primitives(self) -> int:
        """How many primitives the memory keeps at most; 0 of one that has none, or no budget of them."""
        return {"patches": self.patches.budget, "gaussians": self.gaussians.budget}.get(self.memory, 0)

    @property
    def size(self) -> int:
        """What the memory may keep, in the unit of its budget: primitives, or bytes; 0 where it has none."""
        return self.latent_bounded.bytes if self.memory == "latent_bounded" else self.primitives

    def sized(self, size: int) -> Self:
        """With a memory that keeps so much, in the same unit; the same where it has no budget."""
        key = SIZES.get(self.memory)
        return self if key is None else replace(self, **{self.memory: replace(getattr(self, self.memory), **{key: size})})


def read_model(stored: dict[str, Any]) -> ModelConfig:
    """The settings of a model as they were saved, by this version or an older one.

    Raises:
        TypeError: no mapping, or a key that no version had.
        UserError: a value that is out of bounds.
    """
    if not isinstance(stored, dict):
        raise TypeError(f"model is {stored!r:.40}, expected its settings")
    kinds = typing.get_type_hints(ModelConfig)
    values = {key: kinds[key](**v) if is_dataclass(kinds.get(key)) else v for key, v in in_present_keys(stored).items()}
    return ModelConfig(**values)


def in_present_keys(stored: dict[str, Any]) -> dict[str, Any]:
    """Settings of a model with what older versions kept beside the common keys in the groups of the memories.

    What a version did not have is as it is by default; `budget` was that of the memory in use. What is no group stays as it is.
    """
    found: dict[str, Any] = {key: value for key, value in stored.items() if key not in MOVED}
    groups = {f.name: asdict(f.default_factory()) for f in fields(ModelConfig) if f.default_factory is not MISSING}
    for name, default in groups.items():
        given = found.get(name, {})
        found[name] = default | given if isinstance(given, dict) else given
    for old, new in MOVED.items():
        memory, key = new.split(".")
        group = found["gaussians" if old == "budget" and stored.get("memory") == "gaussians" else memory]
        if old in stored and isinstance(group, dict):
            group[key] = stored[old]
    return found


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted keys, without groups."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found
