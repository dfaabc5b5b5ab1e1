"""Two frames at a time: what DUSt3R and MASt3R share. Which pairs to ask, at what size, and how the answer comes back.

Both (Wang et al. 2024, arXiv:2312.14132; Leroy et al. 2024, arXiv:2406.09756) take images in [-1, 1] whose sides are multiples
of their patch, and give for each pixel of both images a point in the camera frame of the first, with a confidence. They count
pixels from centres at integers; a point belongs to its pixel under either rule, so only resampling and matches must convert.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.cameras import pixel_centres
from embodied_liftwm.geometry.view_selection import choose_views
from embodied_liftwm.geometry.warp import sample_pixels
from embodied_liftwm.priors.contract import Clip, DepthMaps, PointMaps, ScaleConvention
from embodied_liftwm.protocols import Camera

WINDOW = 32
"""Frames before and after a frame among which its partner is sought: a bound on work, and drift of odometry grows with time."""
SMALLEST_LONG_SIDE = 224
"""Frames are enlarged to this at least, the smaller of the two sizes the public models were trained at."""
EDGE = 0.05
"""Distance between a pixel's nearest point and the mean of the four around, relative to depth, that tells of an edge."""


class PairMaps(NamedTuple):
    """What the model says of P pairs, at its own size h x w; both images of a pair in the camera frame of the first."""

    points: Tensor  # [P, 2, h, w, 3]
    confidence: Tensor  # [P, 2, h, w] in [0, 1]
    descriptors: Tensor | None  # [P, 2, h, w, D] unit
    descriptor_confidence: Tensor | None  # [P, 2, h, w] in [0, 1]


def choose_pairs(clip: Clip) -> Tensor:
    """For each frame the one within `WINDOW` that sees most of it with parallax, or itself where none does.

    A frame beside itself is how DUSt3R is asked for monocular depth (arXiv:2312.14132, section 4.3).

    Returns:
        Frames' numbers, the reference first. [F, 2] int64
    """
    frames, _, height, width = clip.rgb.shape
    offsets = torch.cat([torch.arange(-WINDOW, 0), torch.arange(1, WINDOW + 1)])
    candidates = torch.arange(frames)[:, None] + offsets
    exists = (candidates >= 0) & (candidates < frames)
    candidates = candidates.clamp(0, frames - 1)
    camera = Camera(clip.intrinsics.expand(frames, 3, 3), clip.world_from_camera, height, width)
    chosen, good = choose_views(camera, clip.world_from_camera[candidates], exists.to(clip.rgb), 1)
    partner = torch.where(good, candidates.gather(1, chosen), torch.arange(frames)[:, None])
    return torch.cat([torch.arange(frames)[:, None], partner], dim=1)


def model_size(height: int, width: int, trained: int, patch: int) -> tuple[int, int]:
    """Height and width for the model: the long side no longer than it was trained at, no shorter than that and 224 allow.

    Both sides are multiples of the patch, so that the aspect may change by half a patch at most.
    """
    longest = max(height, width)
    scale = min(trained, max(SMALLEST_LONG_SIDE, longest)) / longest
    rows, columns = (max(1, round(side * scale / patch)) for side in (height, width))
    return rows * patch, columns * patch


def model_images(rgb: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames [F, 3, H, W] in [0, 1] as the models take them: resized, in [-1, 1]. [F, 3, h, w]"""
    smaller = size[0] < rgb.shape[-2]
    resized = F.interpolate(rgb, size, mode="bicubic", align_corners=False, antialias=smaller)
    return 2.0 * resized.clamp(0, 1) - 1.0


def ask(model: nn.Module, clip: Clip, pairs: Tensor, batch_size: int, device: str) -> Iterator[tuple[Tensor, PairMaps]]:
    """Run the model on pairs, a batch at a time; yields the pairs of the batch and what it says of them, on the device."""
    embed: Any = model.patch_embed
    height, width = clip.rgb.shape[-2:]
    size = model_size(height, width, max(embed.img_size), embed.patch_size[0])
    floors = [_floor(model, mode) for mode in ("conf_mode", "desc_conf_mode")]
    images = model_images(clip.rgb, size)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the models' own calls into torch
        for batch in pairs.split(batch_size):
            first, second = (_view(images[batch[:, k]].to(device), name) for k, name in enumerate(("first", "second")))
            of_first, of_second = model(first, second)
            yield batch, read_answer(of_first, of_second, *floors)


def _view(images: Tensor, name: str) -> dict[str, Any]:
    """One side of a batch of pairs, in the models' own format.

    No two instances share a name: where names say that pairs come in both orders the models encode half of the images, and
    stumble over an odd number of pairs.
    """
    numbers = range(len(images))
    shape = torch.tensor(images.shape[-2:], dtype=torch.int32).expand(len(images), 2)
    return {"img": images, "true_shape": shape, "idx": list(numbers), "instance": [f"{name}-{k}" for k in numbers]}


def _floor(model: nn.Module, mode: str) -> float:
    """The least value of a confidence: the models' modes are (kind, least, largest)."""
    kind_least_largest = getattr(model, mode, None)
    return float(kind_least_largest[1]) if kind_least_largest else 0.0


def read_answer(
    first: dict[str, Tensor], second: dict[str, Tensor], floor: float = 1.0, descriptor_floor: float = 0.0
) -> PairMaps:
    """Take the two dictionaries that the models return apart.

    Args:
        first: of the reference: pts3d [P, h, w, 3], conf [P, h, w]; of MASt3R also desc [P, h, w, D] and desc_conf [P, h, w].
        second: of the other image, pts3d_in_other_view in place of pts3d.
        floor: least value of `conf`, which is floor + exp(x).
        descriptor_floor: least value of `desc_conf`.
    """
    points = torch.stack([first["pts3d"], second["pts3d_in_other_view"]], dim=1)
    confidence = unit_confidence(torch.stack([first["conf"], second["conf"]], dim=1), floor)
    if "desc" not in first:
        return PairMaps(points, confidence, None, None)
    descriptors = torch.stack([first["desc"], second["desc"]], dim=1)
    theirs = unit_confidence(torch.stack([first["desc_conf"], second["desc_conf"]], dim=1), descriptor_floor)
    return PairMaps(points, confidence, descriptors, theirs)


def unit_confidence(confidence: Tensor, floor: float) -> Tensor:
    """From floor + exp(x) to the sigmoid of x: 0 at the floor, 1/2 one above, towards 1.

    With the models' floor of 1 this is 1 - 1 / confidence. Training sets `confidence` to about the inverse of the expected
    error (arXiv:2312.14132, eq. 4), so what is left to 1 is that error's share of the one that it deems hopeless.
    """
    above = (confidence - floor).clamp_min(0.0)
    return above / (1.0 + above)


def to_frames(maps: PairMaps, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Points [P, 2, H, W, 3] and their confidence [P, 2, H, W] at the pixels of frames, on the CPU.

    Bilinear where a surface is smooth; across an edge the nearest point: a mean of two surfaces lies on neither.
    """
    both = torch.cat([maps.points, maps.confidence.unsqueeze(-1)], dim=-1).flatten(0, 1).movedim(-1, 1)
    size = both.new_tensor([both.shape[-1] / width, both.shape[-2] / height])
    at = (pixel_centres(height, width).to(both) * size).expand(len(both), -1, -1, -1)
    mean = sample_pixels(both, at)
    nearest = sample_pixels(both, at.floor() + 0.5)
    across = (mean - nearest)[:, :3].norm(dim=1, keepdim=True) > EDGE * nearest[:, :3].norm(dim=1, keepdim=True)
    found = torch.where(across, nearest, mean).movedim(1, -1).unflatten(0, (-1, 2)).float().cpu()
    return found[..., :3], found[..., 3]


def point_maps(pairs: Tensor, points: Tensor, confidence: Tensor, convention: ScaleConvention) -> PointMaps:
    """Pointmaps of pairs [P, 2] of frames, those of the references first; a frame beside itself gives one.

    Args:
        pairs: [P, 2] int64
        points: as `to_frames` gives them. [P, 2, H, W, 3]
        confidence: [P, 2, H, W]
        convention: of the model.
    """
    two = pairs[:, 0] != pairs[:, 1]
    return PointMaps(
        points=torch.cat([points[:, 0], points[two, 1]]),
        confidence=torch.cat([confidence[:, 0], confidence[two, 1]]),
        frames=torch.cat([pairs[:, 0], pairs[two, 1]]),
        references=torch.cat([pairs[:, 0], pairs[two, 0]]),
        convention=convention,
    )


def depth_maps(pairs: Tensor, points: Tensor, confidence: Tensor, convention: ScaleConvention) -> DepthMaps:
    """Depth of the references: z of their own points, without confidence where that is not in front of the camera."""
    depth = points[:, 0, ..., 2]
    front = depth > 0
    return DepthMaps(torch.where(front, depth, 0.0), confidence[:, 0] * front, pairs[:, 0], convention)
