"""How far a teacher's depth and normals are from the truth, and whether its confidence means what it says.

    liftwm collect split=eval seed=0 episodes=8 out=data/dev
    python benchmarks/teacher_quality.py house_depth data/dev            # weights=FOLDER for others than its own

Depth is judged as the teacher states it, after the alignment that its convention asks for; then after a factor a map, and after
a factor and a shift of inverse depth, which say what a weaker statement would have been worth. Below stand two floors that see
nothing: one depth for all pixels, and one for each row of the image, both fitted to the judged frames, which favours them.
Truth is read here alone. Prints Markdown.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.priors.contract import Clip, DepthConvention, PriorOptions
from embodied_liftwm.priors.house_loss import truths_of
from embodied_liftwm.priors.registry import open_prior

BINS = 10
WEAKER: tuple[DepthConvention, ...] = ("metric", "scale_free", "affine_inverse")
"""Conventions, each stating less than the one before."""


class Said(NamedTuple):
    """What a teacher says of all frames, beside what is true. N frames"""

    depth: Tensor  # [N, H, W] as its convention says
    depth_confidence: Tensor  # [N, H, W]
    cosine: Tensor  # [N, H, W] between its normals and the true ones
    normal_confidence: Tensor  # [N, H, W]
    truth: Tensor  # [N, H, W] metres
    smooth: Tensor  # [N, H, W] bool, where a true normal is defined


def main(words: list[str]) -> None:
    """`PRIOR DATA [weights=FOLDER]`"""
    weights = next((word.removeprefix("weights=") for word in words if word.startswith("weights=")), "")
    plain = [word for word in words if "=" not in word]
    if len(plain) != 2:
        raise SystemExit("usage: python benchmarks/teacher_quality.py PRIOR DATA [weights=FOLDER]")
    said, convention = listen(plain[0], weights, plain[1])
    print(f"{plain[0]}: {convention}, {len(said.truth)} frames of {plain[1]}\n")
    print_depths(said, convention)
    print_normals(said)
    within = (aligned(said.depth, said.truth, convention) / said.truth - 1).abs() < 0.1
    print_reliability("depth within 10 %", said.depth_confidence, within, said.truth > 0)
    near = said.cosine > torch.cos(torch.deg2rad(torch.tensor(11.25)))
    print_reliability("normal within 11.25 degrees", said.normal_confidence, near, said.smooth)


def listen(name: str, weights: str, data: str) -> tuple[Said, DepthConvention]:
    """Ask a teacher about every frame of a dataset."""
    prior = open_prior(name, PriorOptions(weights=weights))
    parts, convention = [], None
    for episode in EvaluationReader(data):
        said = prior.observe(_clip(episode))
        assert episode.truth is not None and said.depth is not None and said.normals is not None
        convention = said.depth.convention
        depth = torch.from_numpy(episode.truth.depth).float()
        truths = truths_of(depth, torch.from_numpy(episode.intrinsics).expand(len(depth), 3, 3))
        cosine = (said.normals.values * truths.normals).sum(1)
        parts.append(
            Said(said.depth.values, said.depth.confidence, cosine, said.normals.confidence, truths.depth, truths.smooth)
        )
    assert convention is not None
    return Said(*map(torch.cat, zip(*parts, strict=True))), convention


def _clip(episode: Episode) -> Clip:
    rgb = torch.from_numpy(episode.rgb).movedim(-1, 1).float() / 255.0
    return Clip(rgb, torch.from_numpy(episode.intrinsics), torch.from_numpy(episode.world_from_camera))


def by_factor(depth: Tensor, truth: Tensor) -> Tensor:
    """Depth times the median ratio to the truth, a map."""
    return depth * (truth / depth).flatten(1).median(1).values[:, None, None]


def by_factor_and_shift(inverse: Tensor, truth: Tensor) -> Tensor:
    """Depth of inverse depth brought to the truth's by least squares, a map; at most 100 m."""
    x, y = inverse.flatten(1), 1.0 / truth.flatten(1)
    centred = x - x.mean(1, keepdim=True)
    slope = (centred * y).sum(1, keepdim=True) / centred.square().sum(1, keepdim=True).clamp_min(1e-6)
    return (1.0 / (y.mean(1, keepdim=True) + slope * centred).clamp_min(0.01)).view_as(truth)


def aligned(depth: Tensor, truth: Tensor, convention: DepthConvention) -> Tensor:
    """Depth in metres, as a convention allows it to be compared."""
    if convention == "affine_inverse":
        return by_factor_and_shift(depth, truth)
    return by_factor(depth, truth) if convention == "scale_free" else depth


def print_depths(said: Said, convention: DepthConvention) -> None:
    """Errors of the teacher and of the floors, each alignment a row."""
    print("| depth | alignment | AbsRel | within 10 % | within 25 % | RMSE (m) |\n|---|---|---|---|---|---|")
    truth = said.truth
    row = truth.movedim(1, 0).flatten(1).median(1).values[None, :, None].expand_as(truth)
    judged: tuple[tuple[str, Tensor, DepthConvention], ...] = (
        ("teacher", said.depth, convention),
        ("one depth", truth.median().expand_as(truth), "metric"),
        ("a depth a row", row, "metric"),
    )
    for name, depth, stated in judged:
        for how in WEAKER[WEAKER.index(stated) :]:
            values = 1.0 / depth if how == "affine_inverse" != stated else depth
            _print_depth(name, how, aligned(values, truth, how), truth)
    print()


def _print_depth(name: str, how: str, depth: Tensor, truth: Tensor) -> None:
    error = (depth / truth - 1).abs()
    rmse = (depth - truth).square().mean().sqrt()
    print(f"| {name} | {how} | {error.mean():.3f} | {(error < 0.1).float().mean():.3f} "
          f"| {(error < 0.25).float().mean():.3f} | {rmse:.3f} |")  # fmt: skip


def print_normals(said: Said) -> None:
    """Angles where the true normal is defined."""
    angle = torch.rad2deg(torch.acos(said.cosine[said.smooth].clamp(-1, 1)))
    shares = ", ".join(f"{(angle < most).float().mean():.3f} within {most}" for most in (11.25, 22.5, 30.0))
    print(f"normals, on {said.smooth.float().mean():.0%} of the pixels: mean {angle.mean():.1f} degrees, "
          f"median {angle.median():.1f}, {shares}\n")  # fmt: skip


def print_reliability(name: str, confidence: Tensor, right: Tensor, where: Tensor) -> None:
    """Mean confidence and share that is right, by tenths of the pixels in order of confidence; and how far they are apart."""
    order = confidence[where].sort()
    parts = order.values.tensor_split(BINS), right[where][order.indices].float().tensor_split(BINS)
    said, found = (torch.stack([part.mean() for part in group]) for group in parts)
    print(f"| {name}, by tenths of confidence |" + "".join(f" {k + 1} |" for k in range(BINS)))
    print("|" + "---|" * (BINS + 1))
    print("| said |" + "".join(f" {value:.2f} |" for value in said))
    print("| found |" + "".join(f" {value:.2f} |" for value in found))
    print(f"\nmean difference {(said - found).abs().mean():.3f}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
