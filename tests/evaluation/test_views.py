import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.judging import judge_all
from embodied_liftwm.evaluation.views.mean_colour import mean_colour_of
from embodied_liftwm.evaluation.views.novel import target_frames
from embodied_liftwm.evaluation.views.swapped import SwappedFrames
from tests.scoring import evaluate_views, seen_mask


def mean(rows, model, field):
    return np.nanmean([getattr(row, field) for row in rows if row.model == model])


def test_targets_are_even_and_end_at_the_last_frame():
    assert target_frames(97, 48, 7) == [54, 61, 68, 75, 82, 89, 96]
    assert target_frames(10, 8, 8) == [8, 9]
    assert target_frames(10, 10, 8) == []


def test_seen_pixels_are_those_the_context_looked_at(tools):
    poses = [tools.pose_at(0.0), tools.pose_at(np.pi / 4), tools.pose_at(np.pi), tools.pose_at(0.0)]
    episode = tools.make_episode(tools.WORLDS[0], poses)
    half_turn = seen_mask(episode.truth, episode.intrinsics, 1, 1)  # 90 degree view turned by 45: half of it is new
    assert not half_turn[:, : tools.SIZE // 2 - 1].any() and half_turn[:, tools.SIZE // 2 + 1 :].float().mean() > 0.85
    assert not seen_mask(episode.truth, episode.intrinsics, 2, 2).any()
    assert seen_mask(episode.truth, episode.intrinsics, 3, 3).all()


def test_what_stood_behind_something_was_not_seen(tools):
    world = tools.World(np.array([[1.0, 0.0, 1.0]]), np.array([[1.0, 0.0, 0.0]]))
    poses = [tools.pose_at(0.0), tools.pose_at(0.0, (0.0, 1.2))]  # from the side, the wall behind the ball appears
    episode = tools.make_episode(world, poses)
    seen = seen_mask(episode.truth, episode.intrinsics, 1, 1).numpy()
    wall = np.abs(poses[1][0, 3] + episode.truth.depth[1].astype(float) - tools.HALF[0]) < 0.02
    first_ids = world.cast(poses[0])[2]
    behind = wall & ~seen
    assert 0.5 < behind.sum() / first_ids.astype(bool).sum() < 2.0  # the ball's shadow, seen from the side
    assert (wall & seen).sum() > behind.sum()


def test_models_rank_as_they_remember(episodes, clairvoyant, cloud, last_frame):
    named = {"all": clairvoyant, "cloud": cloud, "last": last_frame, "floor": mean_colour_of(episodes)}
    rows = evaluate_views([CheckedModel(m, name) for name, m in named.items()], episodes, context=20, views_per_episode=5)
    assert len(rows) == 4 * 2 * 5
    assert mean(rows, "all", "psnr") > 50  # 8-bit colour alone: 20 log10(255 sqrt(12)) = 58.9 dB
    assert mean(rows, "all", "ssim") > 0.99 and mean(rows, "all", "delta_125") == 1.0
    assert mean(rows, "all", "depth_rmse_m") < 2e-3  # half precision
    assert mean(rows, "cloud", "psnr_seen") > mean(rows, "last", "psnr_seen") + 3
    assert mean(rows, "cloud", "depth_rmse_seen_m") < mean(rows, "last", "depth_rmse_seen_m")
    assert mean(rows, "floor", "depth_share") == 1.0
    relative = [r.depth_rmse_m / r.depth_rmse_rel for r in rows if r.episode == 1]
    assert np.ptp(relative) < 1e-3  # one median depth per episode


def test_what_is_made_up_of_what_was_seen_is_told_from_what_is_held(episodes, clairvoyant):
    """A model that shows every second column 0.1 too bright and says that it does not hold it: 20 dB against the rest."""

    class Forgetful:
        initial_state, observe = staticmethod(clairvoyant.initial_state), staticmethod(clairvoyant.observe)

        def render(self, state, camera):
            view = clairvoyant.render(state, camera)
            gone = torch.arange(view.rgb.shape[-1]).remainder(2).bool().expand_as(view.seen)
            off = torch.where(view.rgb > 0.5, -0.1, 0.1)
            return dataclasses.replace(view, rgb=torch.where(gone[:, None], view.rgb + off, view.rgb), seen=(~gone).float())

    named = CheckedModel(Forgetful(), "forgetful"), CheckedModel(clairvoyant, "all")
    rows = evaluate_views(named, episodes, context=20, views_per_episode=5)
    lost = [row.empty_loss_db for row in rows if row.model == "forgetful" and row.seen_share > 0.1]
    assert lost and min(lost) > 25  # 8-bit colour alone is 59 dB
    assert all(np.isnan(row.empty_loss_db) for row in rows if row.model == "all")


def test_batching_changes_nothing(episodes, cloud):
    together = evaluate_views([CheckedModel(cloud, "cloud")], episodes, 20, 3)
    alone = evaluate_views([CheckedModel(cloud, "cloud")], episodes[:1], 20, 3)
    assert [r.psnr for r in together if r.episode == 0] == pytest.approx([r.psnr for r in alone])


def test_a_context_that_leaves_nothing_is_refused(episodes, cloud):
    with pytest.raises(UserError, match=r"context=99.*30 frames"):
        evaluate_views([CheckedModel(cloud, "cloud")], episodes, 99, 3)


def test_who_knows_the_place_is_surprised_by_the_frame_of_another(episodes, clairvoyant):
    class Surprised:
        """Squared error of what it shows, to somebody who shows this."""

        def __init__(self, model):
            self.model, self.initial_state, self.observe, self.render = model, model.initial_state, model.observe, model.render

        def surprise(self, state, observation):
            return (self.model.render(state, observation.camera).rgb - observation.rgb).square().mean((1, 2, 3))

    named = {"all": Surprised(clairvoyant), "mean": Surprised(mean_colour_of(episodes)), "mute": clairvoyant}
    models = [CheckedModel(model, name) for name, model in named.items()]
    (rows,) = judge_all(models, episodes, [partial(SwappedFrames, context=20, views_per_episode=6)])
    right = {name: [row.right for row in rows if row.model == name] for name in named}
    assert right["all"] == [1.0] * 6 and right["mean"] == [0.5] * 6 and right["mute"] == []
    assert all(row.frame < row.other for row in rows)
