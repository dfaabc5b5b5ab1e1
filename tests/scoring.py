"""Single protocols of evaluation, for tests that need no more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.judging import judge_all
from embodied_liftwm.evaluation.metrics.persistence import Persistence, PersistenceRow
from embodied_liftwm.evaluation.metrics.visibility import visible_in
from embodied_liftwm.evaluation.views.novel import ViewRow, novel_views


def evaluate_views(
    models: Sequence[CheckedModel], episodes: Sequence[Episode], context: int, views_per_episode: int
) -> list[ViewRow]:
    return judge_all(models, episodes, [novel_views(episodes, context, views_per_episode)])[0]


def evaluate_persistence(models: Sequence[CheckedModel], episodes: Sequence[Episode]) -> list[PersistenceRow]:
    return judge_all(models, episodes, [Persistence])[0]


def seen_mask(truth: Truth, intrinsics: np.ndarray, target: int, context: int) -> Tensor:
    """Which pixels of a target frame some frame before `context` has seen. bool [H, W]"""
    visible = visible_in(truth.depth, truth.world_from_camera, intrinsics, target, slice(0, context)).visible
    return visible.any(0).view(truth.depth.shape[1:])
