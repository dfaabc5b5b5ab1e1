"""`inhouse_views`: its geometry, its loss, what it learns from, that it resumes, where it looks, and that it beats floors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embodied_liftwm.commands import load_config
from embodied_liftwm.config import TEACHER_SEED_OFFSET, CollectConfig, TeacherConfig
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project, project
from embodied_liftwm.geometry.se3 import make_pose, se3_exp, so3_exp
from embodied_liftwm.geometry.warp import sample_pixels
from embodied_liftwm.priors.beside import ROOM_M, cameras_beside
from embodied_liftwm.priors.contract import Clip, PriorOptions
from embodied_liftwm.priors.inhouse import views as inhouse_views
from embodied_liftwm.priors.inhouse.depth_network import DepthConfig, Guess, describe
from embodied_liftwm.priors.inhouse.views import NEAR_ENOUGH, SHIPPED, InhouseViews, colour_confidence, parallax_log_factor
from embodied_liftwm.priors.inhouse.views_loss import BETA, DEPTH_WEIGHT, views_losses
from embodied_liftwm.priors.inhouse.views_network import Imagined, ViewsConfig, ViewsNetwork, moved, view_rays
from embodied_liftwm.priors.registry import find_card, open_prior
from embodied_liftwm.training.checkpoint import checkpoints
from embodied_liftwm.training.inhouse.frames import NOISE
from embodied_liftwm.training.inhouse.pairs import (
    LARGEST_STEP_M,
    LARGEST_TURN_DEG,
    LEAST_STEP_M,
    PairReader,
    Pairs,
    jittered_pairs,
    mirrored_pairs,
    partners,
)
from embodied_liftwm.training.inhouse.trainer import TeacherTrainer, export
from liftwm_agents.collection.workers import ShardCollector
from tests import toy_room
from tests.priors.test_inhouse_depth import room_clip, write_rooms

SMALL = ViewsConfig(DepthConfig(image_size=32, stem=8, widths=(8, 16), convention="metric"), carried=2, stem=8, widths=(8, 16))


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rooms(tmp_path_factory.mktemp("house") / "rooms", "teacher", TEACHER_SEED_OFFSET)


def settings(rooms: Path, run: Path, **changes) -> TeacherConfig:
    base = TeacherConfig(name="inhouse_views", data=str(rooms), run=str(run), steps=4, frames=2, threads=1)
    return replace(base, save_every=2, log_every=1, **changes)


# -- the geometry ----------------------------------------------------------------------------------------------------------
def sure_guess(depth: torch.Tensor) -> Guess:
    return Guess(depth.log(), torch.full_like(depth, -5.0), depth[:, None].expand(-1, 3, -1, -1), depth)


def test_pixels_move_as_their_depth_says():
    k = torch.tensor([[[20.0, 0, 16], [0, 20, 16], [0, 0, 1]]])
    pixels = torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    aside = torch.tensor([0.3, -0.2, 0.0])  # metres: at 2 m, 3 pixels to the left and 2 down
    poses = torch.stack([torch.eye(4), make_pose(torch.eye(3), aside)])[None]
    came, alpha, log_depth = moved(pixels, sure_guess(torch.full((1, 32, 32), 2.0)), k, poses)
    seen = came / alpha.clamp_min(1e-3)
    assert float((seen[0, 0] - pixels[0])[:, 1:-1, 1:-1].abs().mean()) < 0.06  # of white noise, which blurs most
    assert float((seen[0, 1, :, 3:-1, 1:-4] - seen[0, 0, :, 1:-3, 4:-1]).abs().mean()) < 0.02  # off the axis they look longer
    assert torch.allclose(log_depth[0, :, 0, 3:-1, 1:-4], torch.tensor(2.0).log(), atol=1e-4)
    assert float(alpha[0, 1, 0, 3:-1, 1:-4].min()) > 0.9 and float(alpha[0, 1, 0, :, -2:].max()) < 0.1


def test_what_is_unsure_is_let_through():
    k = torch.tensor([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]])
    guess = sure_guess(torch.full((1, 16, 16), 2.0))._replace(log_spread=torch.full((1, 16, 16), 1.0))
    alpha = moved(torch.ones(1, 1, 16, 16), guess, k, torch.eye(4)[None, None])[1]
    assert 0.0 < float(alpha.mean()) < 0.1


def test_plucker_rays_go_through_the_points_that_pixels_show():
    generator = torch.Generator().manual_seed(1)
    k = torch.tensor([[18.0, 0, 7], [0, 22, 5], [0, 0, 1]]).expand(2, 3, 3)
    poses = se3_exp(0.5 * torch.randn(2, 3, 6, generator=generator))
    rays = view_rays(k, poses, 10, 14)
    depth = 1.0 + 3.0 * torch.rand(6, 10, 14, generator=generator)
    points = back_project(depth, k.repeat_interleave(3, 0), poses.flatten(0, 1)).view(2, 3, 10, 14, 3)
    own, direction, moment = rays.movedim(2, -1).split([2, 3, 3], dim=-1)
    assert torch.allclose(direction.norm(dim=-1), torch.ones(2, 3, 10, 14), atol=1e-5)
    assert torch.allclose(torch.linalg.cross(points, direction), moment, atol=1e-4)
    assert torch.allclose(own[0, 0, 4, 3], torch.tensor([(3.5 - 7) / 18, (4.5 - 5) / 22]))


def test_the_factor_of_depth_is_applied_before_anything_moves():
    torch.manual_seed(0)
    network = ViewsNetwork(SMALL).eval()
    clip = room_clip(3, 32)
    poses = make_pose(torch.eye(3), torch.tensor([0.2, 0.0, 0.1])).expand(3, 1, 4, 4)
    doubled = poses.clone()
    doubled[..., :3, 3] *= 2.0
    k = clip.intrinsics.expand(3, 3, 3)
    once, twice = network(clip.rgb, k, poses), network(clip.rgb, k, doubled, torch.full((3,), math.log(2.0)))
    assert torch.allclose(twice.guess.log_depth - once.guess.log_depth, torch.tensor(2.0).log(), atol=1e-5)
    assert torch.allclose(once.covered, twice.covered, atol=1e-3)  # a scene twice as large, seen from twice as far


# -- the loss --------------------------------------------------------------------------------------------------------------
def test_the_loss_is_a_weighted_laplace_likelihood_whose_optimum_is_the_mean_error():
    generator = torch.Generator().manual_seed(0)
    views = torch.rand(1, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    rgb = torch.rand(1, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    depth = 1.0 + torch.rand(1, 4, 4, generator=generator, dtype=torch.float64)
    log_scale = (rgb - views).abs().mean(2).log().requires_grad_()
    guess = Guess(depth.log() + 0.3, torch.zeros_like(depth), depth, depth)
    found = views_losses(Imagined(rgb, log_scale, log_scale, guess), views, depth)
    by_hand = torch.distributions.Laplace(rgb, log_scale.exp().unsqueeze(2)).log_prob(views)
    assert torch.allclose(found.views, -by_hand.mean())
    assert torch.allclose(found.weighted, -(log_scale.exp().unsqueeze(2) ** BETA * by_hand).mean())
    assert found.depth.item() == pytest.approx(0.3 + math.log(2.0)) and found.gradient.item() == pytest.approx(0.0, abs=1e-9)
    assert found.total().item() == pytest.approx(found.weighted.item() + DEPTH_WEIGHT * found.depth.item())
    assert found.psnr.item() == pytest.approx(-10 * math.log10((rgb - views).square().mean().item()))
    (slope,) = torch.autograd.grad(found.weighted, log_scale)
    assert float(slope.abs().max()) < 1e-12


def test_invalid_depth_teaches_nothing():
    rgb, depth = torch.rand(1, 1, 3, 4, 4), torch.full((1, 4, 4), 2.0)
    depth[0, :, 2:] = 0.0
    log_depth = torch.zeros(1, 4, 4, requires_grad=True)
    guess = Guess(log_depth, torch.zeros(1, 4, 4), depth, depth)
    views_losses(Imagined(rgb, torch.zeros(1, 1, 4, 4), depth, guess), rgb, depth).total().backward()
    assert float(log_depth.grad[0, :, 2:].abs().max()) == 0.0 and float(log_depth.grad[0, :, :2].abs().min()) > 0.0


# -- the data --------------------------------------------------------------------------------------------------------------
def test_partners_are_those_that_look_the_same_way_from_near():
    poses = toy_room.episode(3, steps=30).world_from_camera
    apart, turned = partners(poses)
    for a in range(len(poses)):
        for b in range(len(poses)):
            step = np.linalg.norm(poses[a, :3, 3].astype(float) - poses[b, :3, 3])
            cosine = np.clip(poses[a, :3, 2].astype(float) @ poses[b, :3, 2], -1.0, 1.0)
            usable = a != b and step <= LARGEST_STEP_M and np.degrees(np.arccos(cosine)) <= LARGEST_TURN_DEG
            assert (b in apart[a]) == (usable and step >= LEAST_STEP_M)
            assert (b in turned[a]) == (usable and step < LEAST_STEP_M)
    assert sum(map(len, apart)) > 30


def lifted(pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Colours that the frames' pixels have in the first of their views by true depth, and where they fall inside. [B, H * W]"""
    points = back_project(pairs.depth, pairs.intrinsics, torch.eye(4).expand(len(pairs.depth), 4, 4)).flatten(1, 2)
    uv, z = project(points, pairs.intrinsics, torch.linalg.inv(pairs.frame_from_view[:, 0]))
    inside = (uv > 1).all(-1) & (uv < pairs.rgb.shape[-1] - 1).all(-1) & (z > 0)
    return sample_pixels(pairs.views[:, 0], uv[:, None])[:, :, 0], inside


@pytest.mark.parametrize("flip", [False, True])
def test_views_show_what_frames_do_where_their_poses_say_mirrored_or_not(rooms: Path, monkeypatch, flip: bool):
    monkeypatch.setattr("embodied_liftwm.training.inhouse.pairs.FLIP_SHARE", float(flip))
    monkeypatch.setattr("embodied_liftwm.training.inhouse.pairs.jittered_pairs", lambda pairs, rng: pairs)
    pairs = PairReader(str(rooms)).pairs(0, 0, 24, 2)
    colours, inside = lifted(pairs)
    missed = (colours - pairs.rgb.flatten(2)).abs().mean(1)[inside]  # a box room: nothing hides anything
    assert inside.float().mean() > 0.4 and float(missed.mean()) < 0.02
    swapped = pairs._replace(frame_from_view=torch.linalg.inv(pairs.frame_from_view))
    colours, inside = lifted(swapped)
    assert float((colours - pairs.rgb.flatten(2)).abs().mean(1)[inside].mean()) > 0.03


def test_mirroring_twice_changes_nothing(rooms: Path):
    pairs = PairReader(str(rooms)).pairs(0, 1, 4, 2)
    which = torch.tensor([True, False, True, True])
    again = mirrored_pairs(mirrored_pairs(pairs, which), which)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(pairs, again))
    once = mirrored_pairs(pairs, which)
    assert torch.equal(once.views[1], pairs.views[1]) and not torch.equal(once.views[0], pairs.views[0])


def test_jitter_is_the_same_for_a_frame_and_its_views_and_noise_is_the_frames_alone():
    rgb = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    poses = torch.eye(4).expand(6, 2, 4, 4)
    same = Pairs(rgb, rgb[:, 0], torch.eye(3).expand(6, 3, 3), rgb[:, None].expand(-1, 2, -1, -1, -1), poses)
    changed = jittered_pairs(same, np.random.default_rng(0))
    assert torch.equal(changed.views[:, 0], changed.views[:, 1])
    difference = (changed.rgb - changed.views[:, 0]).abs()
    assert 0.0 < float(difference.max()) < 6 * NOISE
    assert float((changed.rgb - rgb).abs().mean()) > 0.05
    assert torch.equal(changed.depth, same.depth) and torch.equal(changed.frame_from_view, poses)


def test_batches_are_a_function_of_seed_and_step_and_partners_of_one_episode(rooms: Path):
    reader = PairReader(f"{rooms}, {rooms}")
    first, again, later = reader.pairs(0, 3, 8, 2), reader.pairs(0, 3, 8, 2), reader.pairs(0, 4, 8, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again)) and not torch.equal(first.rgb, later.rgb)
    assert first.views.shape == (8, 2, 3, 32, 32) and float(first.views.min()) >= 0 and float(first.views.max()) <= 1
    assert float(first.frame_from_view[..., :3, 3].norm(dim=-1).max()) <= LARGEST_STEP_M + 1e-4


def test_scenes_of_world_models_and_clips_without_pairs_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"which a teacher must not learn from.*split=teacher"):
        PairReader(str(write_rooms(tmp_path / "train", "train", 0)))
    still = replace(toy_room.episode(0, steps=3), meta={"seed": TEACHER_SEED_OFFSET})
    assert still.truth is not None
    still.truth.world_from_camera[:] = still.truth.world_from_camera[0]
    folder = write_rooms(tmp_path / "still", "teacher", TEACHER_SEED_OFFSET, episodes=0)
    from embodied_liftwm.data.storage import write_episode

    write_episode(folder, 0, still)
    with pytest.raises(UserError, match=r"no two frames are 0\.1 to 0\.9 m apart"):
        PairReader(str(folder))


# -- the training ----------------------------------------------------------------------------------------------------------
def test_resumed_training_ends_at_the_same_weights(rooms: Path, tmp_path: Path):
    TeacherTrainer(settings(rooms, tmp_path / "whole"), SMALL).fit()
    broken = settings(rooms, tmp_path / "broken")
    trainer = TeacherTrainer(broken, SMALL)
    for _ in range(2):
        trainer.advance()
    trainer.save()
    trainer.advance()  # a step that a kill loses
    TeacherTrainer(broken, SMALL).fit()
    ends = [load_file(checkpoints(tmp_path / run)[-1] / "model.safetensors") for run in ("whole", "broken")]
    assert checkpoints(tmp_path / "broken")[-1].name == "step-00000004"
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_training_learns_a_batch_by_heart(rooms: Path, tmp_path: Path):
    trainer = TeacherTrainer(settings(rooms, tmp_path / "run", steps=40, learning_rate=1e-2), SMALL)
    pairs = trainer.load(0)
    rows = [trainer.advance(lambda step: pairs) for _ in range(40)]
    assert rows[-1]["error"] < 0.6 * rows[0]["error"] and rows[-1]["psnr"] > rows[0]["psnr"] + 3
    assert rows[-1]["views"] < rows[0]["views"] - 0.5
    assert rows[-1]["depth_error"] < 0.5 * rows[0]["depth_error"]


def test_the_network_that_looks_begins_as_inhouse_depth(tmp_path: Path):
    folder = tmp_path / "rooms"
    write_rooms(folder, "teacher", TEACHER_SEED_OFFSET, episodes=0)
    from embodied_liftwm.data.storage import write_episode

    write_episode(folder, 0, replace(toy_room.episode(0, size=64), meta={"seed": TEACHER_SEED_OFFSET}))
    network = TeacherTrainer(settings(folder, tmp_path / "run")).network
    known = open_prior("inhouse_depth", PriorOptions())._network.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(value, known[name]) for name, value in network.source.state_dict().items())


def test_the_command_trains_continues_and_exports(rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from embodied_liftwm.commands import train

    words = ["name=inhouse_views", f"data={rooms}", f"run={tmp_path / 'run'}", "frames=1", "threads=1"]
    train.run_teacher(load_config(TeacherConfig, words=[*words, "steps=1"]))
    train.run_teacher(load_config(TeacherConfig, words=[*words, "steps=2"]))
    said = capsys.readouterr().out
    assert "training inhouse_views" in said and "continuing at step 1" in said and "trained to step 2" in said
    folder = export(tmp_path / "run", tmp_path / "weights", "# A card")
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}
    from_run, exported = (open_prior("inhouse_views", PriorOptions(weights=str(path))) for path in (tmp_path / "run", folder))
    assert from_run.fingerprint() != exported.fingerprint()
    a, b = (prior.observe(room_clip(4, 32)).views for prior in (from_run, exported))
    assert a is not None and b is not None
    assert torch.equal(a.world_from_camera, b.world_from_camera) and torch.allclose(a.rgb, b.rgb, atol=0.02)


# -- where it looks --------------------------------------------------------------------------------------------------------
def test_cameras_stand_before_the_surfaces_that_their_frame_sees():
    clip = room_clip(8, 32)
    frames = torch.tensor([1, 4, 6])
    for far, expected in ((0.4, 0), (3.0, 2)):
        found = cameras_beside(clip, frames, torch.full((3, 32, 32), far), 2, 0)
        assert found.number.bincount(minlength=3).tolist() == [expected] * 3
    depth = torch.full((3, 32, 32), 3.0)
    depth[:, :, :16] = 0.3  # a wall at the left: all of them stand at the right
    found = cameras_beside(clip, frames, depth, 2, 0)
    assert len(found.number) and float(found.frame_from_view[:, 0, 3].min()) > 0
    step = found.frame_from_view[:, :3, 3]
    assert float(step.norm(dim=1).min()) >= 0.2 and float(step.norm(dim=1).max()) <= 0.6 + 1e-5
    assert float(step[:, 2].max()) < 3.0 - ROOM_M
    turn = found.frame_from_view[:, 2, 2].acos().rad2deg()
    assert float(turn.max()) <= 25.0 + 1e-3
    assert torch.equal(found.frame_from_view, cameras_beside(clip, frames, depth, 2, 0).frame_from_view)


def test_no_camera_stands_where_the_agent_was():
    clip, frames, depth = room_clip(2, 32), torch.tensor([0]), torch.full((1, 32, 32), 4.0)
    first = cameras_beside(clip, frames, depth, 1, 0).frame_from_view
    assert len(first) == 1
    been = torch.stack([clip.world_from_camera[0], clip.world_from_camera[0] @ first[0]])
    nudged, turned = been.clone(), been.clone()
    nudged[1, :3, :3] @= so3_exp(torch.tensor([0.0, 0.05, 0.0]))
    turned[1, :3, :3] @= so3_exp(torch.tensor([0.0, 1.0, 0.0]))
    for visited, is_there in ((been, False), (nudged, False), (turned, True)):
        found = cameras_beside(clip._replace(world_from_camera=visited), frames, depth, 1, 0).frame_from_view
        assert torch.equal(found, first) == is_there


# -- what it says ----------------------------------------------------------------------------------------------------------
def test_confidence_is_the_probability_of_a_small_error_and_0_for_what_is_invented_or_no_better_than_a_mean_colour():
    rgb = torch.zeros(1, 3, 4, 4)
    rgb[..., 2:] = 0.4  # mean 0.2, from which every pixel differs by 0.2
    scale = torch.tensor([0.02, 0.1, 0.19, 0.21]).expand(1, 4, 4)
    covered = torch.tensor([0.9, 0.9, 0.51, 0.49]).view(1, 4, 1).expand(1, 4, 4)
    found = colour_confidence(scale.log(), covered, rgb)[0]
    laplace = torch.distributions.Laplace(0.0, scale[0, 0])
    expected = laplace.cdf(torch.tensor(NEAR_ENOUGH)) - laplace.cdf(torch.tensor(-NEAR_ENOUGH))
    assert torch.allclose(found[:3, :3], expected[:3].expand(3, 3), atol=1e-5)
    assert float(found[:, 3].abs().max()) == 0 and float(found[3].abs().max()) == 0


@pytest.mark.parametrize("wrong", [1.0, 1.4, 0.7])
def test_the_scale_is_taken_from_parallax(wrong: float):
    episode = toy_room.episode(5, steps=16, size=64)
    assert episode.truth is not None
    clip = Clip(
        torch.from_numpy(episode.rgb).movedim(-1, 1).float() / 255,
        torch.from_numpy(episode.intrinsics),
        torch.from_numpy(episode.world_from_camera),
    )
    frames = torch.arange(0, 16, 4)
    depth = torch.from_numpy(episode.truth.depth).float()[frames]
    found = parallax_log_factor(clip, frames, wrong * depth, torch.ones_like(depth))
    assert found.item() == pytest.approx(-math.log(wrong), abs=0.08)
    still = clip._replace(world_from_camera=clip.world_from_camera[:1].expand(17, 4, 4).contiguous())
    assert parallax_log_factor(still, frames, wrong * depth, torch.ones_like(depth)).item() == 0


def test_it_says_the_same_whatever_the_batch_and_however_often_asked():
    clip = room_clip(9)
    said = [open_prior("inhouse_views", PriorOptions(batch_size=size)).observe(clip).views for size in (8, 8, 1)]
    assert said[0] is not None and len(said[0].frames) > 2
    for other in said[1:]:
        assert other is not None and torch.equal(said[0].frames, other.frames)
        for a, b in zip(
            (said[0].rgb, said[0].confidence, said[0].world_from_camera), (other.rgb, other.confidence, other.world_from_camera)
        ):
            assert torch.allclose(a, b, atol=1e-4)
    assert torch.equal(said[0].rgb, said[1].rgb)  # type: ignore[union-attr]
    other = open_prior("inhouse_views", PriorOptions(seed=1)).observe(clip).views
    assert other is not None and not torch.equal(said[0].world_from_camera[:1], other.world_from_camera[:1])


@pytest.mark.parametrize("size", [64, 50])
def test_it_answers_at_the_size_of_the_frames_as_its_card_says(size: int):
    found = open_prior("inhouse_views", PriorOptions()).observe(room_clip(6, size))
    assert tuple(found.given()) == find_card("inhouse_views").gives
    views = found.views
    assert views is not None and len(views.frames) > 0
    count = len(views.frames)
    assert views.rgb.shape == (count, 3, size, size) and views.rgb.min() >= 0 and views.rgb.max() <= 1
    assert views.confidence.shape == (count, size, size) and views.confidence.min() >= 0 and views.confidence.max() <= 1
    assert views.frames.dtype == torch.int64 and views.frames.max() < 6
    assert all(tensor.dtype == torch.float32 for tensor in (views.rgb, views.confidence, views.world_from_camera))


def test_damaged_and_missing_weights_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no model\.safetensors.*liftwm priors train name=inhouse_views"):
        open_prior("inhouse_views", PriorOptions(weights=str(tmp_path)))
    for name in ("model.safetensors", "model.json"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    (tmp_path / "model.json").write_text(describe(SMALL))
    with pytest.raises(UserError, match=r"model\.safetensors .* another architecture"):
        open_prior("inhouse_views", PriorOptions(weights=str(tmp_path)))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.json does not describe a inhouse_views network"):
        open_prior("inhouse_views", PriorOptions(weights=str(tmp_path)))


@pytest.fixture(scope="module")
def room() -> Episode:
    """An episode of a development scene, as `liftwm collect` records it."""
    config = CollectConfig(split="eval", seed=77, steps=32, policy="tour")
    collector = ShardCollector(config, find_env(config.env))
    try:
        return collector.record(0)
    finally:
        collector.close()


def test_the_shipped_weights_beat_floors_and_know_where_in_a_room_they_never_saw(room: Episode):
    assert room.truth is not None
    rgb = torch.from_numpy(room.rgb).movedim(-1, 1).float() / 255
    clip = Clip(rgb, torch.from_numpy(room.intrinsics), torch.from_numpy(room.world_from_camera))
    apart, _ = partners(room.truth.world_from_camera)
    pairs = np.array([(a, b) for a, options in enumerate(apart) for b in options[::3]])[::3]
    frames, views = torch.from_numpy(pairs).unbind(1)
    teacher = InhouseViews(PriorOptions())
    moves = torch.linalg.inv(clip.world_from_camera[frames].double()) @ clip.world_from_camera[views].double()
    said, confidence = teacher.views(rgb[frames], clip.intrinsics, moves.float(), torch.zeros(()))

    def squared(answer: torch.Tensor) -> torch.Tensor:
        return (answer - rgb[views]).square().mean(1)

    mean, copy = rgb[frames].mean((2, 3), keepdim=True).expand_as(said), rgb[frames]
    assert len(frames) > 15
    assert squared(said).mean() < 0.6 * torch.minimum(squared(mean).mean(), squared(copy).mean())
    near = ((said - rgb[views]).abs().mean(1) < NEAR_ENOUGH).float()
    sure = confidence > 0
    assert float(sure.float().mean()) > 0.4
    assert float(near[sure].mean()) == pytest.approx(float(confidence[sure].mean()), abs=0.1)
    assert float(squared(said)[confidence > 0.9].mean()) < 0.25 * float(squared(said).mean())
    found = open_prior("inhouse_views", PriorOptions()).observe(clip).views
    assert found is not None and len(found.frames) >= 8
    assert json.loads((SHIPPED / "model.json").read_text())["model"]["source"]["convention"] == "metric"
    assert int(found.frames.bincount().max()) <= inhouse_views.VIEWS
