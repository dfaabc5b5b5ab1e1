"""What the body does under an action, learned from all of a dataset before anything else is, in a second or two.

The planner imagines with it, and it needs no picture: a small network fitted to (action, last motion) -> next motion. Learned
only beside depth and pictures it would see little of the dataset in a short training, and the planner would miss its goals.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.reader import TrainingReader
from embodied_liftwm.geometry.se3 import relative_pose, se3_log
from embodied_liftwm.objectives.terms import motion_log_prob
from embodied_liftwm.world_model.dynamics import EgoMotion

STEPS = 1000
"""Optimiser steps: 1.2 s of a core, after which the error on held-out tours is that of `base` (7 mm and 2 mrad a step; what is
left of it are bumps). 300 steps leave twice as much, 4,000 take no more away (docs/experiments.md, section 48)."""
BATCH, LEARNING_RATE = 512, 1e-2  # transitions a step; the peak of a cosine
MOST_TRANSITIONS = 2**18
"""Transitions that are read at most, of episodes spread over the whole dataset."""


def fit_ego_motion(ego_motion: EgoMotion, reader: TrainingReader, seed: int, episodes: range | None = None) -> None:
    """Fit the ego-motion of a model, in place, to the transitions of a dataset.

    Args:
        ego_motion: the network, as it was made or as an earlier training left it.
        reader: the dataset.
        seed: of what is drawn; the same one gives the same weights.
        episodes: the first of the dataset's, which alone are read; all if None.
    """
    action, before, twist = (t.to(next(ego_motion.parameters()).device) for t in transitions(reader, episodes))
    optimizer = torch.optim.AdamW(ego_motion.parameters(), LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-3)
    draw = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1.0 + math.cos(math.pi * step / STEPS))
        some = torch.randint(len(twist), (BATCH,), generator=draw).to(twist.device)
        expected = ego_motion(action[some], before[some])
        optimizer.zero_grad(set_to_none=True)
        (-motion_log_prob(twist[some], expected.mean, expected.scale).mean()).backward()
        optimizer.step()


def transitions(reader: TrainingReader, episodes: range | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Actions [N, A], and the twists of the step before [N, 6], zeros at the start, and after each of them [N, 6]."""
    count = len(reader) if episodes is None else len(episodes)
    kept = max(1, min(count, int(count * MOST_TRANSITIONS / reader.episode_lengths[:count].sum())))
    actions, befores, afters = [], [], []
    for episode in np.linspace(0, count - 1, kept).round().astype(int).tolist():
        poses = torch.from_numpy(np.array(reader.read(episode, "world_from_camera")))
        after = se3_log(relative_pose(poses[:-1], poses[1:]))
        actions.append(torch.from_numpy(np.array(reader.read(episode, "action"))))
        befores.append(torch.cat([torch.zeros_like(after[:1]), after[:-1]]))
        afters.append(after)
    return torch.cat(actions), torch.cat(befores), torch.cat(afters)
