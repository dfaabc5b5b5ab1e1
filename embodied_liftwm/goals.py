"""Where a goal is among what a model remembers: how alike things are to it, and the compact cluster of what is alike.

World models (`world_model.summary`) and planners (`liftwm_agents.planning.perception`) use this and no other detector. A
task's instruction begins with a colour, and what a goal looks like is said here alone, twice:

- `colour_likeness` is of colours as a map holds them, by plain distance. Summaries hold it, and with them saved policies.
- `hue_likeness` is of pictures that a model rendered, whose shade errs more than their hue.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

COLOUR_SHARPNESS = 40.0
"""Inverse squared distance of colours at which they stop being alike."""
CHROMA_SIGMA, BRIGHTNESS_SIGMA = 0.06, 0.6
"""Of chromaticity: 10 to 20 % errors of a channel stay within two of them; of log brightness, which lamps change more."""
CLUSTER_M = 0.35
"""About the radius of the largest object."""
VOTERS, CENTRING = 256, 3
"""Pieces among which a goal is looked for; steps of mean shift from the best one."""


class Place(NamedTuple):
    """Where a goal is believed to be."""

    xyz: Tensor  # [B, 3] world, metres
    mass: Tensor  # [B] surface there, weighed by likeness; 0 where nothing is alike
    confidence: Tensor  # [B] in [0, 1]


def colour_likeness(rgb: Tensor, goal: Tensor) -> Tensor:
    """How near colours [B, ..., 3] are to the goal's (its first three numbers), 0 before a goal is given. [B, ...]"""
    if goal.shape[-1] < 3:
        return rgb.new_zeros(rgb.shape[:-1])
    ones = [1] * (rgb.dim() - 2)
    distance = (rgb - goal[:, :3].view(-1, *ones, 3)).square().sum(-1)
    given = (goal.abs().sum(-1) > 0).to(rgb).view(-1, *ones)
    return torch.exp(-COLOUR_SHARPNESS * distance) * given


def hue_likeness(rgb: Tensor, colour: Tensor) -> Tensor:
    """How well colours [..., 3] agree with one [3] in chromaticity, and roughly in brightness: exp(-d^2 / 2). [...]"""
    brightness, wanted = rgb.sum(-1, keepdim=True) + 1e-3, colour.sum() + 1e-3
    chroma = (rgb / brightness - colour / wanted).square().sum(-1) / CHROMA_SIGMA**2
    darker = torch.log(brightness[..., 0] / wanted) / BRIGHTNESS_SIGMA
    return torch.exp(-0.5 * (chroma + darker.square()))


def goal_place(points: Tensor, presence: Tensor, likeness: Tensor, voters: int = VOTERS) -> Place:
    """Where the best compact cluster of what looks like the goal is; other things of its hue do not pull it away.

    Of the `voters` pieces that look most like it, those within CLUSTER_M of one vote for its place, and those within 2.5 times
    that vote against it: a small object wins over a large wall. The best match wins, not the largest: what was seen from near
    has more pieces.

    Args:
        points: pieces of surface, world, metres. [B, K, 3]
        presence: of each; a piece of 1 has a whole vote, and what is larger no more; 0 for free ones. [B, K]
        likeness: how much they look like the goal, in [0, 1]. [B, K]
        voters: at most; time and memory grow with their square.
    """
    if not points.shape[1]:
        nothing = presence.new_zeros(len(points))
        return Place(points.new_zeros(len(points), 3), nothing, nothing)
    votes = likeness * presence.clamp_max(1.0)
    best = votes.topk(min(voters, votes.shape[1]), dim=1).indices
    points = points.gather(1, best[..., None].expand(-1, -1, 3))
    votes, alike, presence = (values.gather(1, best) for values in (votes, likeness, presence))
    apart = torch.cdist(points, points)
    inside = (apart < CLUSTER_M).to(votes)
    ring = (apart < 2.5 * CLUSTER_M).to(votes) - inside
    number = (inside - 0.5 * ring) @ votes[..., None]
    total = inside @ votes[..., None]
    quality = (inside @ (votes * alike)[..., None]) / total.clamp_min(1e-6)
    score = (quality * (1.0 - torch.exp(-number.clamp_min(0.0) / 4.0))).squeeze(-1)
    confidence, chosen = score.max(1)
    place = points.gather(1, chosen[:, None, None].expand(-1, 1, 3))
    for _ in range(CENTRING):
        near = (torch.cdist(place, points).squeeze(1) < CLUSTER_M).to(votes)
        weight = near * votes * alike
        place = ((weight[..., None] * points).sum(1) / weight.sum(1, keepdim=True).clamp_min(1e-6))[:, None]
    return Place(place.squeeze(1), (near * presence * alike).sum(1), confidence)
