"""`inhouse_depth`: depth and normals from single frames, by a small network of our own that was trained in other rooms.

Its weights come with the package; `priors/weights/inhouse_depth/README.md` is its card. `liftwm priors train` trains others,
and `weights=` takes them: a run, a checkpoint, or what `training.inhouse.trainer.export` wrote.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.geometry.cameras import resize_intrinsics
from embodied_liftwm.priors.contract import Clip, DepthMaps, NormalMaps, PriorCard, PriorOptions, PseudoObservations
from embodied_liftwm.priors.inhouse.depth_network import Guess, load_network

SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "inhouse_depth"
NEAR_ENOUGH = 1.1
"""Confidence in a depth is the probability that it is within this factor of the truth."""
NEAR_ENOUGH_DEG = 11.25
"""Confidence in a normal is the probability that it is within this angle of the truth, the strictest that is usually told
(Fouhey et al. 2013, Data-Driven 3D Primitives for Single Image Understanding)."""
VERSION = 1
"""Of what the adapter makes of the network's output; a part of the fingerprint."""


class InhouseDepth:
    """The opened teacher. Each frame is judged by itself, at the size that the network was trained on."""

    def __init__(self, options: PriorOptions) -> None:
        """Load the weights.

        Raises:
            UserError: they are missing, damaged or of another architecture.
        """
        folder = weights_folder(options, SHIPPED)
        self._network = load_network(folder).to(options.device)
        self._device, self._batch_size = options.device, options.batch_size
        self._fingerprint = weights_fingerprint(folder, f"house_depth {VERSION}")  # its former name: caches stay valid

    def fingerprint(self) -> str:
        """Of the weights, the architecture and this adapter. 16 hex digits"""
        return self._fingerprint

    def observe(self, clip: Clip) -> PseudoObservations:
        """Depth and normals of every frame; its poses are not looked at."""
        parts = [self._judge(rgb, clip.intrinsics) for rgb in clip.rgb.split(self._batch_size)]
        guess = Guess(*(torch.cat(maps) for maps in zip(*parts, strict=True)))
        frames = torch.arange(len(clip.rgb))
        inverse = self._network.config.convention == "affine_inverse"
        depth = torch.exp(-guess.log_depth if inverse else guess.log_depth)
        return PseudoObservations(
            depth=DepthMaps(depth, depth_confidence(guess.log_spread), frames, self._network.config.convention),
            normals=NormalMaps(guess.normals, normal_confidence(guess.log_concentration), frames),
        )

    @torch.inference_mode()
    def _judge(self, rgb: Tensor, intrinsics: Tensor) -> Guess:
        """The network's guess about frames [K, 3, H, W] of any size, back at that size, on the CPU."""
        height, width = rgb.shape[-2:]
        inner, k = at_trained_size(rgb, intrinsics, self._network.config.image_size, self._network.config.multiple)
        guess = self._network(inner.to(self._device), k.to(self._device))
        depth, spread, normals, concentration = (maps.cpu() for maps in guess)
        single = resized(torch.stack([depth, spread, concentration], dim=1), [height, width])
        depth, spread, concentration = single.unbind(1)
        return Guess(depth, spread, F.normalize(resized(normals, [height, width]), dim=1), concentration)


def depth_confidence(log_spread: Tensor) -> Tensor:
    """Probability that a Laplace residual of log-depth is within log `NEAR_ENOUGH`; shapes are kept."""
    within = torch.log(torch.tensor(NEAR_ENOUGH, dtype=log_spread.dtype))
    return -torch.expm1(-within * torch.exp(-log_spread))


def normal_confidence(log_concentration: Tensor) -> Tensor:
    """Probability that a von Mises-Fisher direction is within `NEAR_ENOUGH_DEG` of its mean; shapes are kept.

    The cosine to the mean has density proportional to exp(kappa cos) on [-1, 1] (Fisher 1953), whence the closed form.
    """
    kappa = log_concentration.exp()
    apart = 1.0 - torch.cos(torch.deg2rad(torch.tensor(NEAR_ENOUGH_DEG, dtype=kappa.dtype)))
    return torch.expm1(-kappa * apart) / torch.expm1(-2.0 * kappa)


def at_trained_size(rgb: Tensor, intrinsics: Tensor, trained: int, multiple: int) -> tuple[Tensor, Tensor]:
    """Frames as a network wants them.

    Args:
        rgb: [K, 3, H, W]
        intrinsics: of all frames, pixels. [3, 3]
        trained: height that it was trained on.
        multiple: of which height and width must be one.

    Returns:
        Frames [K, 3, h, w], and their intrinsics [K, 3, 3].
    """
    height, width = rgb.shape[-2:]
    scale = trained / height
    inner = [max(1, round(side * scale / multiple)) * multiple for side in (height, width)]
    return resized(rgb, inner), resize_intrinsics(intrinsics, (inner[1] / width, inner[0] / height)).expand(len(rgb), 3, 3)


def resized(maps: Tensor, size: list[int]) -> Tensor:
    """Maps [K, C, H, W] at another size; means of what is under a pixel where they shrink."""
    if list(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)


def weights_folder(options: PriorOptions, shipped: Path) -> Path:
    """Where weights are, or should be: of a run, its newest checkpoint; the shipped ones where none are named."""
    if not options.weights:
        return shipped
    return max(Path(options.weights).glob("checkpoints/step-*"), default=Path(options.weights))


def weights_fingerprint(folder: Path, label: str) -> str:
    """Of a label and the files of a teacher of ours. 16 hex digits"""
    digest = hashlib.sha256(label.encode())
    for name in ("model.json", "model.safetensors"):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def missing_weights(folder: Path, name: str) -> str:
    """One line where a teacher of ours lacks its files, "" where all is there."""
    if all((folder / file).is_file() for file in ("model.safetensors", "model.json")):
        return ""
    train = f"train with `liftwm priors train name={name}`"
    return f"no model.safetensors and model.json in {folder}; {train}, or leave weights out"


CARD = PriorCard(
    name="inhouse_depth",
    gives=("depth", "normals"),
    about="monocular depth and normals by a small U-Net of ours, trained in other procedural rooms; its weights come with it",
    licence="Apache-2.0",
    non_commercial=False,
    missing=lambda options: missing_weights(weights_folder(options, SHIPPED), "inhouse_depth"),
    open=InhouseDepth,
)
