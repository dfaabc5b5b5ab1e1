"""What goals look like, and where that is among what a model remembers: the compact clusters of what is alike.

World models (`world_model.summary`) and the planner's own goal finder (`liftwm_agents.planning.goal_finder`) use this and no
other detector. It knows a goal by its colour: the first numbers of an instruction, or that of what a picture shows
(`colour_of`). Saved models and policies know instructions alone, so that to them a picture is its colour (`attributes_of`).

- `colour_likeness` is of colours as a map holds them, by plain distance. Summaries hold it, and with them saved policies.
- `hue_likeness` is of pictures that a model rendered, whose shade errs more than their hue.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.protocols import AttributeGoal, Goal, PictureGoal, PlaceGoal

COLOUR_SHARPNESS = 40.0
"""Inverse squared distance of colours at which they stop being alike."""
CHROMA_SIGMA, BRIGHTNESS_SIGMA = 0.06, 0.6
"""Of chromaticity: 10 to 20 % errors of a channel stay within two of them; of log brightness, which lamps change more."""
CLUSTER_M = 0.35
"""About the radius of the largest object in our rooms; other worlds have other lengths."""
VOTERS, CENTRING = 256, 3
"""Pieces among which a goal is looked for; steps of mean shift from the best one."""
COLOUR = 3
"""Numbers that data and models are told of a picture."""
MOST_PIXELS = 256
"""Of a picture, or of its surroundings, that are compared with one another."""


class Place(NamedTuple):
    """Where a goal is believed to be: one place, or K of them, best first."""

    xyz: Tensor  # [B, 3] or [B, K, 3] world
    mass: Tensor  # [B] or [B, K] surface there, weighed by likeness; 0 where nothing is alike
    confidence: Tensor  # [B] or [B, K] in [0, 1]


def goal_of(value: np.ndarray, kind: str | None = None) -> Goal:
    """What an environment asks for, from the `goal` of its observation.

    Args:
        value: numbers [G], or a picture [h, w, 3] or, with its mask, [h, w, 4] uint8.
        kind: "place" where the numbers are a place in the world [2 or 3]; what else it may be, the value shows.

    Raises:
        UserError: neither numbers nor a picture.
    """
    value = np.asarray(value)
    if value.ndim == 3 and value.shape[2] in (3, 4) and value.dtype == np.uint8:
        layers = torch.from_numpy(np.ascontiguousarray(value)).permute(2, 0, 1).float() / 255.0
        return PictureGoal(layers[:3], layers[3] if len(layers) == 4 else None)
    if value.ndim != 1:
        raise UserError(f"goal: expected numbers [G] or a picture [h, w, 3 or 4] uint8, got {list(value.shape)} {value.dtype}")
    numbers = torch.as_tensor(np.array(value, dtype=np.float32))
    if kind != "place":
        return AttributeGoal(numbers)
    if len(numbers) not in (2, 3):
        raise UserError(f"goal: expected a place [2 or 3], got {list(value.shape)}")
    return PlaceGoal(torch.cat([numbers, numbers.new_zeros(3 - len(numbers))]))


def same_goal(one: Goal | None, other: Goal | None) -> bool:
    """Whether two goals ask for the same."""
    if one is None or other is None or type(one) is not type(other):
        return one is other
    mine, theirs = one.named_tensors(), other.named_tensors()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def colour_of(goal: Goal) -> Tensor | None:
    """Colour of what is looked for, in [0, 1]; None where that is no matter of looks, or not called yet. [3]"""
    if isinstance(goal, AttributeGoal):
        return goal.attributes[:3] if len(goal.attributes) >= 3 and bool(goal.attributes.any()) else None
    if not isinstance(goal, PictureGoal) or not bool(goal.rgb.any()):
        return None
    return picture_colour(goal.rgb, goal.mask)


def attributes_of(goal: Goal, size: int) -> Tensor:
    """A goal as the instruction of `size` numbers that saved models and policies know: the colour of a picture, then zeros.

    Shape and all else that a picture shows is lost on the way; places have no looks and become zeros, as before a call. [size]
    """
    if isinstance(goal, AttributeGoal):
        return goal.attributes
    colour = colour_of(goal)
    said = torch.zeros(size) if colour is None else torch.cat([colour.float().cpu(), torch.zeros(size)])
    return said[:size]


def instruction_of(pictures: np.ndarray, numbers: int) -> np.ndarray:
    """What data, models and policies are told of pictures: `attributes_of` each. [..., h, w, 3 or 4] uint8 -> [..., numbers]"""
    said = [attributes_of(goal_of(picture), numbers).numpy() for picture in pictures.reshape(-1, *pictures.shape[-3:])]
    return np.stack(said).astype(np.float32).reshape(*pictures.shape[:-3], numbers)


def picture_colour(rgb: Tensor, mask: Tensor | None) -> Tensor | None:
    """The colour that most of something has, and its surroundings have not.

    Args:
        rgb: a picture in [0, 1]. [3, H, W]
        mask: in [0, 1]; without one the middle half of the picture is taken for the thing, its border for surroundings. [H, W]

    Returns:
        [3]; None where the mask is empty.
    """
    inside, around = _inside(rgb, mask)
    thing, rest = (_some(rgb[:, where].T) for where in (inside, around))
    if not len(thing):
        return None
    alike = hue_likeness(thing, thing[:, None])  # [colours, pixels]
    contrast = alike.mean(1)
    if mask is None and len(rest):
        contrast = contrast - hue_likeness(rest, thing[:, None]).mean(1)
    weight = alike[contrast.argmax()]
    return (weight[:, None] * thing).sum(0) / weight.sum()


def _inside(rgb: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The pixels of a thing, and those that are none of it. Two [H, W] bool"""
    if mask is not None:
        return mask > 0.5, mask < 0.5
    height, width = rgb.shape[1:]
    middle, core = torch.zeros(2, height, width, dtype=torch.bool, device=rgb.device)
    middle[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    rim_y, rim_x = max(1, height // 12), max(1, width // 12)
    core[rim_y : height - rim_y, rim_x : width - rim_x] = True
    return middle, ~core


def _some(colours: Tensor) -> Tensor:
    """At most MOST_PIXELS of them, evenly spaced. [P, 3] -> [p, 3]"""
    return colours[:: max(1, -(-len(colours) // MOST_PIXELS))]


def colour_likeness(rgb: Tensor, goal: Tensor) -> Tensor:
    """How near colours [B, ..., 3] are to the goal's (its first three numbers), 0 before a goal is given. [B, ...]"""
    if goal.shape[-1] < 3:
        return rgb.new_zeros(rgb.shape[:-1])
    ones = [1] * (rgb.dim() - 2)
    distance = (rgb - goal[:, :3].view(-1, *ones, 3)).square().sum(-1)
    given = (goal.abs().sum(-1) > 0).to(rgb).view(-1, *ones)
    return torch.exp(-COLOUR_SHARPNESS * distance) * given


def hue_likeness(rgb: Tensor, colour: Tensor) -> Tensor:
    """How well colours [..., 3] agree with others in chromaticity, and roughly in brightness: exp(-d^2 / 2). [...]"""
    brightness, wanted = rgb.sum(-1, keepdim=True) + 1e-3, colour.sum(-1, keepdim=True) + 1e-3
    chroma = (rgb / brightness - colour / wanted).square().sum(-1) / CHROMA_SIGMA**2
    darker = torch.log(brightness / wanted)[..., 0] / BRIGHTNESS_SIGMA
    return torch.exp(-0.5 * (chroma + darker.square()))


def goal_place(points: Tensor, presence: Tensor, likeness: Tensor) -> Place:
    """The best of `goal_places`: [B, 3], [B], [B]."""
    found = goal_places(points, presence, likeness, 1)
    return Place(found.xyz[:, 0], found.mass[:, 0], found.confidence[:, 0])


def goal_places(
    points: Tensor, presence: Tensor, likeness: Tensor, count: int, cluster_m: float = CLUSTER_M, voters: int = VOTERS
) -> Place:
    """Where compact clusters of what looks like the goal are; other things of its hue do not pull them away.

    Of the `voters` pieces that look most like it, those within `cluster_m` of one vote for its place, and those within 2.5
    times that vote against it: a small object wins over a large wall. The best match wins, not the largest: what was seen from
    near has more pieces. The next best is so far from all before, in the plan, that their clusters do not touch.

    Args:
        points: pieces of surface, world. [B, N, 3]
        presence: of each; a piece of 1 has a whole vote, and what is larger no more; 0 for free ones. [B, N]
        likeness: how much they look like the goal, in [0, 1]. [B, N]
        count: places, K; those that are not there have confidence 0.
        cluster_m: radius of what is looked for.
        voters: at most; time and memory grow with their square.
    """
    if not points.shape[1]:
        nothing = presence.new_zeros(len(points), count)
        return Place(points.new_zeros(len(points), count, 3), nothing, nothing)
    votes = likeness * presence.clamp_max(1.0)
    best = votes.topk(min(voters, votes.shape[1]), dim=1).indices
    points = points.gather(1, best[..., None].expand(-1, -1, 3))
    votes, alike, presence = (values.gather(1, best) for values in (votes, likeness, presence))
    apart = torch.cdist(points, points)
    inside = (apart < cluster_m).to(votes)
    ring = (apart < 2.5 * cluster_m).to(votes) - inside
    number = (inside - 0.5 * ring) @ votes[..., None]
    total = inside @ votes[..., None]
    quality = (inside @ (votes * alike)[..., None]) / total.clamp_min(1e-6)
    score = (quality * (1.0 - torch.exp(-number.clamp_min(0.0) / 4.0))).squeeze(-1)
    found = []
    for _ in range(count):
        confidence, chosen = score.max(1)
        place = points.gather(1, chosen[:, None, None].expand(-1, 1, 3))
        for _ in range(CENTRING):
            near = (torch.cdist(place, points).squeeze(1) < cluster_m).to(votes)
            weight = near * votes * alike
            place = ((weight[..., None] * points).sum(1) / weight.sum(1, keepdim=True).clamp_min(1e-6))[:, None]
        found.append((place.squeeze(1), (near * presence * alike).sum(1), confidence))
        score = score * (torch.cdist(place[..., :2], points[..., :2]).squeeze(1) > 2.0 * cluster_m)
    return Place(*(torch.stack(parts, dim=1) for parts in zip(*found, strict=True)))
