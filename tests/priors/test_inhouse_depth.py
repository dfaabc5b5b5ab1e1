"""`inhouse_depth`: what its loss leaves open, what it learns from, that it resumes, and that it beats what sees nothing."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from embodied_liftwm.commands import load_config
from embodied_liftwm.config import EVAL_SEED_OFFSET, TEACHER_SEED_OFFSET, CollectConfig, TeacherConfig, split_of
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.storage import FORMAT, write_episode, write_info
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.priors.contract import Clip, PriorOptions
from embodied_liftwm.priors.inhouse.depth import SHIPPED, depth_confidence, normal_confidence
from embodied_liftwm.priors.inhouse.depth_loss import (
    depth_residual,
    gradient_matching,
    laplace_nll,
    losses,
    truths_of,
    von_mises_fisher_nll,
)
from embodied_liftwm.priors.inhouse.depth_network import DepthConfig, DepthNetwork, Guess, describe
from embodied_liftwm.priors.registry import find_card, open_prior
from embodied_liftwm.training.checkpoint import checkpoints
from embodied_liftwm.training.inhouse.frames import Frames, TeacherReader, jittered, mirrored
from embodied_liftwm.training.inhouse.trainer import TeacherTrainer, export
from liftwm_agents.collection.workers import ShardCollector
from tests import toy_room

SMALL = DepthConfig(image_size=32, stem=8, widths=(8, 16))


def write_rooms(folder: Path, split: str, first_seed: int, episodes: int = 2) -> Path:
    """Toy rooms as `liftwm collect` would have written them with that split."""
    folder.mkdir(parents=True)
    write_info(folder, {"format": FORMAT, "env": "toy", "split": split})
    for index in range(episodes):
        write_episode(folder, index, replace(toy_room.episode(index), meta={"seed": first_seed + index}))
    return folder


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rooms(tmp_path_factory.mktemp("house") / "rooms", "teacher", TEACHER_SEED_OFFSET)


def settings(rooms: Path, run: Path, **changes) -> TeacherConfig:
    base = TeacherConfig(data=str(rooms), run=str(run), steps=4, frames=8, threads=1, save_every=2)
    return replace(base, log_every=1, **changes)


# -- the loss --------------------------------------------------------------------------------------------------------------
def maps(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A predicted log-depth and a true depth with a hole, float64. [2, 4, 5] each"""
    rng = np.random.default_rng(seed)
    depth = torch.from_numpy(rng.uniform(0.5, 6.0, (2, 4, 5)))
    depth[0, 2, 3] = 0.0
    return torch.from_numpy(rng.normal(0.5, 0.6, (2, 4, 5))), depth


def test_metric_residuals_are_log_ratios():
    guess, depth = maps(0)
    residual = depth_residual(guess, depth, "metric")
    assert residual[0, 2, 3] == 0
    assert torch.allclose(residual[1], torch.log(guess[1].exp() / depth[1]))


def test_scale_free_residuals_do_not_feel_a_factor_of_either_map():
    guess, depth = maps(1)
    residual = depth_residual(guess, depth, "scale_free")
    assert torch.allclose(depth_residual(guess, depth * 7.3, "scale_free"), residual, atol=1e-12)
    assert torch.allclose(
        depth_residual(guess + torch.tensor([0.4, -2.0]).view(2, 1, 1), depth, "scale_free"), residual, atol=1e-12
    )
    assert not torch.allclose(depth_residual(guess, depth * 7.3, "metric"), depth_residual(guess, depth, "metric"), atol=0.1)


def test_affine_residuals_do_not_feel_a_factor_and_a_shift_of_inverse_depth():
    guess, depth = maps(2)
    valid = depth > 0
    residual = depth_residual(guess, depth, "affine_inverse")
    moved = torch.where(valid, 1.0 / (3.1 / depth.clamp_min(1e-9) + 0.7), 0.0)
    assert torch.allclose(depth_residual(guess, moved, "affine_inverse"), residual, atol=1e-10)
    assert torch.allclose(
        depth_residual(-torch.log(0.2 * torch.exp(-guess) + 1.9), depth, "affine_inverse"), residual, atol=1e-10
    )
    assert float((depth_residual(guess, moved, "scale_free") - depth_residual(guess, depth, "scale_free")).abs().max()) > 0.1
    exact = -torch.log(torch.where(valid, 1.0 / depth.clamp_min(1e-9), 1.0))
    assert float(depth_residual(exact, moved, "affine_inverse").abs().max()) < 1e-10


@pytest.mark.parametrize("convention", ["metric", "scale_free", "affine_inverse"])
def test_gradients_of_the_whole_loss_are_right(convention):
    guess, depth = maps(3)
    generator = torch.Generator().manual_seed(0)
    spread, normals, concentration = (
        torch.randn(s, generator=generator, dtype=torch.float64) for s in ((2, 4, 5), (2, 3, 4, 5), (2, 4, 5))
    )
    k = torch.tensor([[4.0, 0.0, 2.5], [0.0, 4.0, 2.0], [0.0, 0.0, 1.0]], dtype=torch.float64).expand(2, 3, 3)
    truths = truths_of(depth, k)._replace(smooth=torch.ones_like(depth, dtype=torch.bool))

    def total(*said):
        return losses(
            Guess(said[0], said[1], torch.nn.functional.normalize(said[2], dim=1), said[3]), truths, convention
        ).total()

    inputs = tuple(tensor.requires_grad_() for tensor in (guess, spread, normals, concentration))
    assert torch.autograd.gradcheck(total, inputs)


def test_densities_integrate_to_one():
    residual = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    log_spread = torch.tensor(0.3, dtype=torch.float64)
    assert torch.trapezoid(torch.exp(-laplace_nll(residual, log_spread)), residual).item() == pytest.approx(1.0, abs=1e-6)
    angle = torch.linspace(0, np.pi, 20_001, dtype=torch.float64)
    truth = torch.stack([angle.sin(), torch.zeros_like(angle), angle.cos()])[None, :, :, None]
    for log_kappa in (-1.0, 2.0, 6.0):
        kappa = torch.full((1, len(angle), 1), log_kappa, dtype=torch.float64)
        mean = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64).view(1, 3, 1, 1)
        ring = 2 * np.pi * angle.sin() * torch.exp(-von_mises_fisher_nll(mean, truth, kappa))[0, :, 0]
        assert torch.trapezoid(ring, angle).item() == pytest.approx(1.0, abs=1e-5)
        near = angle <= np.deg2rad(11.25)
        share = torch.trapezoid(ring[near], angle[near]).item()
        assert normal_confidence(kappa[0, 0, 0]).item() == pytest.approx(share, abs=2e-3)
    near = residual.abs() <= np.log(1.1)
    share = torch.trapezoid(torch.exp(-laplace_nll(residual[near], log_spread)), residual[near]).item()
    assert depth_confidence(log_spread).item() == pytest.approx(share, abs=1e-3)


def test_gradient_matching_sums_mean_steps_over_scales():
    ramp = torch.arange(8.0).expand(1, 8, 8)  # steps of 1, 2, 4 along u; one pixel is left at the last scale
    valid = torch.ones(1, 8, 8, dtype=torch.bool)
    assert gradient_matching(ramp, valid).item() == pytest.approx(1 + 2 + 4)
    assert gradient_matching(ramp + 5.0, valid).item() == pytest.approx(7)
    spike = torch.zeros(1, 8, 8)
    spike[0, 4, 4] = 1e6
    assert gradient_matching(spike, spike == 0).item() == 0


def test_normals_are_defined_on_planes_and_not_at_their_edges():
    k = torch.tensor([[[20.0, 0, 16], [0, 20, 16], [0, 0, 1]]])
    u = (torch.arange(32) + 0.5 - 16) / 20
    slanted = (1.0 / (0.3 + 0.1 * u)).expand(1, 32, 32)
    truths = truths_of(slanted, k)
    assert truths.smooth[0, 1:-1, 1:-1].all()
    assert not truths.smooth[0, 0].any()
    step = slanted.clone()
    step[:, :, 20:] *= 1.3
    smooth = truths_of(step, k).smooth[0, 16]
    assert not smooth[19:21].any() and smooth[1:19].all() and smooth[21:31].all()


# -- the data --------------------------------------------------------------------------------------------------------------
def test_the_three_splits_share_no_seed():
    splits = ("train", "eval", "teacher")
    ranges = [CollectConfig(split=split, seed=seed, episodes=1).first_seed for split in splits for seed in (0, 2**30 - 1)]
    assert ranges == sorted(ranges) and len(set(ranges)) == 6
    assert [split_of(seed) for seed in ranges] == ["train"] * 2 + ["eval"] * 2 + ["teacher"] * 2


@pytest.mark.parametrize(
    "split, first", [("train", 0), ("eval", EVAL_SEED_OFFSET), ("teacher", 7), ("teacher", EVAL_SEED_OFFSET)]
)
def test_the_reader_refuses_scenes_of_world_models(tmp_path: Path, split: str, first: int):
    with pytest.raises(UserError, match=r"which a teacher must not learn from.*split=teacher"):
        TeacherReader(str(write_rooms(tmp_path / "rooms", split, first)))


def test_the_reader_refuses_a_dataset_that_does_not_say_whose_it_is(tmp_path: Path):
    with pytest.raises(UserError, match="must not learn from"):
        TeacherReader(str(toy_room.write_dataset(tmp_path / "rooms")))


def test_batches_are_a_function_of_seed_and_step(rooms: Path):
    reader = TeacherReader(f"{rooms}, {rooms}")
    assert (reader.episodes, len(reader), reader.image_size) == (4, 52, (32, 32))
    first, again, later = reader.batch(0, 3, 8), reader.batch(0, 3, 8), reader.batch(0, 4, 8)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first.depth, later.depth)
    assert float(first.rgb.min()) >= 0 and float(first.rgb.max()) <= 1


def test_a_mirrored_frame_is_what_a_mirrored_camera_sees():
    rgb, depth = toy_room.render(toy_room.pose(0.3, -0.5, 0.4), 32, 0)
    k = torch.from_numpy(toy_room.intrinsics(32))[None].clone()
    k[:, 0, 2] += 1.5
    frames = Frames(torch.from_numpy(rgb).movedim(-1, 0)[None].float() / 255, torch.from_numpy(depth)[None].float(), k)
    seen = mirrored(frames, torch.tensor([True]))
    here, there = (back_project(f.depth, f.intrinsics, torch.eye(4)[None])[0] for f in (frames, seen))
    assert torch.allclose(there.flip(1) * torch.tensor([-1.0, 1.0, 1.0]), here, atol=1e-5)
    kept = mirrored(frames, torch.tensor([False]))
    assert all(torch.equal(a, b) for a, b in zip(kept, frames))


def test_jitter_changes_colours_alone(rooms: Path):
    frames = Frames(torch.rand(6, 3, 8, 8), torch.rand(6, 8, 8), torch.eye(3).expand(6, 3, 3))
    changed = jittered(frames, np.random.default_rng(0))
    assert torch.equal(changed.depth, frames.depth) and torch.equal(changed.intrinsics, frames.intrinsics)
    assert all(float((a - b).abs().mean()) > 0.01 for a, b in zip(changed.rgb, frames.rgb))


# -- the training ----------------------------------------------------------------------------------------------------------
def test_resumed_training_ends_at_the_same_weights(rooms: Path, tmp_path: Path):
    TeacherTrainer(settings(rooms, tmp_path / "whole"), SMALL).fit()
    broken = settings(rooms, tmp_path / "broken")
    trainer = TeacherTrainer(broken, SMALL)
    for _ in range(2):
        trainer.advance()
    trainer.save()
    trainer.advance()  # a step that a kill loses
    with pytest.raises(KeyboardInterrupt):
        TeacherTrainer(replace(broken, save_every=100), SMALL).fit(lambda row: signal.raise_signal(signal.SIGINT))
    assert checkpoints(tmp_path / "broken")[-1].name == "step-00000003"
    TeacherTrainer(broken, SMALL).fit()
    ends = [load_file(checkpoints(tmp_path / run)[-1] / "model.safetensors") for run in ("whole", "broken")]
    assert checkpoints(tmp_path / "broken")[-1].name == "step-00000004"
    assert ends[0].keys() == ends[1].keys() and all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_training_learns_a_batch_by_heart(rooms: Path, tmp_path: Path):
    trainer = TeacherTrainer(settings(rooms, tmp_path / "run", steps=50, frames=4, learning_rate=8e-3), SMALL)
    frames = trainer.load(0)
    rows = [trainer.advance(lambda step: frames) for _ in range(50)]
    assert rows[-1]["error"] < 0.65 * rows[0]["error"]
    assert rows[-1]["normals"] < rows[0]["normals"] - 1.0
    assert rows[-1]["depth"] < rows[0]["depth"] - 0.8


def test_the_command_trains_continues_and_exports(rooms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from embodied_liftwm.commands import train

    words = [f"data={rooms}", f"run={tmp_path / 'run'}", "frames=2", "threads=1"]
    train.run_teacher(load_config(TeacherConfig, words=[*words, "steps=1"]))
    train.run_teacher(load_config(TeacherConfig, words=[*words, "steps=2"]))
    said = capsys.readouterr().out
    assert "from scratch" in said and "continuing at step 1" in said and "trained to step 2" in said
    folder = export(tmp_path / "run", tmp_path / "weights", "# A card")
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    from_run, exported = (open_prior("inhouse_depth", PriorOptions(weights=str(path))) for path in (tmp_path / "run", folder))
    a, b = (prior.observe(room_clip(2)).depth.values for prior in (from_run, exported))
    assert torch.allclose(a, b, rtol=2e-2)
    assert from_run.fingerprint() != exported.fingerprint()
    with pytest.raises(UserError, match="needs a card"):
        export(tmp_path / "run", tmp_path / "other", " ")
    with pytest.raises(UserError, match="there already"):
        export(tmp_path / "run", folder, "# A card")


# -- the teacher -----------------------------------------------------------------------------------------------------------
def room_clip(frames: int, size: int = 64) -> Clip:
    episode = toy_room.episode(5, steps=frames - 1, size=size)
    rgb = torch.from_numpy(episode.rgb).movedim(-1, 1).float() / 255
    return Clip(rgb, torch.from_numpy(episode.intrinsics), torch.from_numpy(episode.world_from_camera))


def test_it_says_the_same_whatever_the_batch_and_however_often_asked():
    clip = room_clip(5)
    said = [open_prior("inhouse_depth", PriorOptions(batch_size=size)).observe(clip) for size in (8, 8, 1, 2)]
    for other in said[1:]:
        for a, b in zip(said[0].given().values(), other.given().values()):
            assert torch.allclose(a.values, b.values, atol=1e-5) and torch.allclose(a.confidence, b.confidence, atol=1e-5)
    assert torch.equal(said[0].depth.values, said[1].depth.values)


@pytest.mark.parametrize("size", [64, 96, 50])
def test_it_answers_at_the_size_of_the_frames_as_its_card_and_convention_say(size: int):
    found = open_prior("inhouse_depth", PriorOptions()).observe(room_clip(3, size))
    assert tuple(found.given()) == find_card("inhouse_depth").gives
    assert found.depth.convention == json.loads((SHIPPED / "model.json").read_text())["model"]["convention"]
    assert found.depth.values.shape == (3, size, size) and found.depth.values.min() > 0
    assert found.normals.values.shape == (3, 3, size, size)
    assert torch.allclose(found.normals.values.norm(dim=1), torch.ones(3, size, size), atol=1e-4)
    for part in found.given().values():
        assert part.frames.tolist() == [0, 1, 2] and part.values.dtype == torch.float32
        assert part.confidence.shape == (3, size, size) and part.confidence.min() >= 0 and part.confidence.max() <= 1


def test_every_convention_is_given_out_as_it_is_stored(tmp_path: Path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = DepthNetwork(DepthConfig(stem=8, widths=(8,)))
    depths = {}
    for convention in ("metric", "scale_free", "affine_inverse"):
        folder = tmp_path / convention
        folder.mkdir()
        save_file(network.state_dict(), folder / "model.safetensors")
        (folder / "model.json").write_text(describe(DepthConfig(stem=8, widths=(8,), convention=convention)))
        depths[convention] = open_prior("inhouse_depth", PriorOptions(weights=str(folder))).observe(room_clip(2)).depth
        assert depths[convention].convention == convention
    assert torch.allclose(depths["affine_inverse"].values, 1.0 / depths["metric"].values, rtol=1e-5)


def test_damaged_and_missing_weights_are_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no model\.safetensors.*liftwm priors train name=inhouse_depth"):
        open_prior("inhouse_depth", PriorOptions(weights=str(tmp_path)))
    for name in ("model.safetensors", "model.json"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    (tmp_path / "model.json").write_text(describe(SMALL))
    with pytest.raises(UserError, match=r"model\.safetensors .* another architecture"):
        open_prior("inhouse_depth", PriorOptions(weights=str(tmp_path)))
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model\.json does not describe"):
        open_prior("inhouse_depth", PriorOptions(weights=str(tmp_path)))


@pytest.fixture(scope="module")
def room() -> Episode:
    """An episode of a development scene, as `liftwm collect` records it."""
    config = CollectConfig(split="eval", seed=77, steps=24, policy="tour")
    collector = ShardCollector(config, find_env(config.env))
    try:
        return collector.record(0)
    finally:
        collector.close()


def test_the_shipped_weights_beat_what_sees_nothing_in_a_room_they_never_saw(room: Episode):
    assert room.truth is not None
    clip = Clip(
        torch.from_numpy(room.rgb).movedim(-1, 1).float() / 255,
        torch.from_numpy(room.intrinsics),
        torch.from_numpy(room.world_from_camera),
    )
    found, truth = open_prior("inhouse_depth", PriorOptions()).observe(clip), torch.from_numpy(room.truth.depth).float()
    assert found.depth.convention == "scale_free"

    def errors(depth: torch.Tensor) -> torch.Tensor:
        scale = (truth / depth).flatten(1).median(1).values[:, None, None]
        return (scale * depth / truth - 1).abs()

    wrong = errors(found.depth.values)
    constant, row = torch.ones_like(truth), truth.movedim(1, 0).flatten(1).median(1).values[None, :, None].expand_as(truth)
    assert wrong.mean() < 0.7 * min(errors(constant).mean(), errors(row).mean())
    sure = found.depth.confidence > found.depth.confidence.median()
    assert wrong[sure].mean() < 0.5 * wrong[~sure].mean()
    k = clip.intrinsics.expand(len(truth), 3, 3)
    truths = truths_of(truth, k)
    cosine = (found.normals.values * depth_to_normals(truth, k)).sum(1)[truths.smooth]
    facing = -depth_to_normals(truth, k)[:, 2][truths.smooth]  # of a teacher that says "every surface faces me"
    assert cosine.clamp(-1, 1).acos().mean() < 0.5 * facing.clamp(-1, 1).acos().mean()
