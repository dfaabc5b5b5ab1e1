"""`liftwm reproduce memories`: in what its models are alike, what it writes, what it counts, and what it does not do again."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embodied_liftwm import cli, load
from embodied_liftwm.commands import load_config
from embodied_liftwm.config import ModelConfig, RecurrentConfig, ReproduceMemoriesConfig
from embodied_liftwm.experiments.engine import HONEST
from embodied_liftwm.experiments.memories import Memories, apart, order
from embodied_liftwm.memory.frames.context import ContextFrames
from embodied_liftwm.training.frozen_depth import freeze_depth
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from embodied_liftwm.world_model.encoder import Encoder


@pytest.fixture
def config() -> ReproduceMemoriesConfig:
    return load_config(ReproduceMemoriesConfig, "small", ["train.seed=4"])


def test_every_row_has_the_same_data_steps_seed_and_sizes(config: ReproduceMemoriesConfig) -> None:
    rows = {row: Memories(config).settings(row, 5) for row in Memories(config).trained_rows(5)}
    assert len(rows) == 7 and len({row.run for row in rows.values()}) == 7
    assert {row: s.steps // config.train.steps for row, s in rows.items() if s.steps != config.train.steps} == {"recurrent": 6}
    same = ("data", "minutes", "batch_size", "context", "targets", "span", "sources", "terms", "learning_rate", "seed")
    for name in same:
        assert len({getattr(row, name) for row in rows.values()}) == 1, name
    base = load("base").config  # type: ignore[attr-defined]
    for name in ("stride", "width", "widest", "planes", "stereo_sources"):
        assert {getattr(row.model, name) for row in rows.values()} == {getattr(base, name)}, name
    assert {row: rows[row].model.latent_dim for row in rows} == {
        row: base.latent_dim if row in ("patches", "gaussians", "recurrent") else config.cache_dim for row in rows
    }
    assert all(rows[row].model.memory == row for row in rows)


def test_bounds_and_budgets_are_made_of_one_training(config: ReproduceMemoriesConfig) -> None:
    it, oracle = Memories(config), Memories(replace(config, memories=("oracle",)))
    assert list(it.made_of("patches")) == ["patches", "none", "oracle"]
    assert list(it.made_of("gaussians"))[:3] == ["gaussians", "gaussians-64", "gaussians-128"]
    assert "gaussians-2048" not in it.made_of("gaussians")  # that is how it was trained
    assert list(it.made_of("latent_bounded")) == ["latent_bounded", "latent_bounded-131072"]
    assert oracle.trained_rows(4) == ["patches"] and list(oracle.made_of("patches")) == ["oracle"]
    assert set(it.rows_of("patches", 4)) - set(it.made_of("patches")) == set(HONEST)
    assert not it.loops("oracle") and it.loops("none") == config.loops == it.loops("matching")
    keys = ["gaussians", "none", "gaussians-64", "patches"]
    assert sorted(keys, key=order) == ["none", "gaussians-64", "gaussians", "patches"]
    assert apart("latent_bounded-131072") == ("latent_bounded", 131072)


def test_borrowed_depth_is_that_of_the_other_model_and_stays_so() -> None:
    torch.manual_seed(0)
    small = ModelConfig(stride=4, width=8, latent_dim=4, planes=12)
    theirs, mine = Encoder(small, (32, 32)), Encoder(replace(small, latent_dim=6), (32, 32))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    put_back = freeze_depth(mine, theirs, fresh=True)
    optimizer = torch.optim.AdamW(mine.parameters(), 0.1, weight_decay=0.5)
    features = torch.randn(2, 8, 8, 8)
    for _ in range(2):
        optimizer.zero_grad()
        (mine.head(features) - 1.0).square().mean().backward()
        optimizer.step()
        put_back()
    ours, given = (encoder.head(features).split(encoder.parts, dim=1) for encoder in (mine, theirs))
    for part in (0, 1, 2, 4):
        assert torch.equal(ours[part], given[part])
    assert not ours[3].equal(torch.zeros_like(ours[3])) and ours[3].shape[1] == 6
    assert torch.equal(mine.stem.weight, theirs.stem.weight) and not mine.stem.weight.requires_grad


def test_borrowing_goes_on_where_a_training_was_stopped_and_refuses_other_sizes() -> None:
    from embodied_liftwm.errors import UserError

    torch.manual_seed(0)
    small = ModelConfig(stride=4, width=8, planes=12)
    mine, theirs = Encoder(small, (32, 32)), Encoder(small, (32, 32))
    latents = mine.head.weight[14:18].clone()
    freeze_depth(mine, theirs, fresh=False)
    assert torch.equal(mine.head.weight[14:18], latents)
    freeze_depth(mine, theirs, fresh=True)
    assert not mine.head.weight[14:18].any() and mine.head.weight[:14].equal(theirs.head.weight[:14])
    with pytest.raises(UserError, match="tensor 'stem.weight' has shape"):
        freeze_depth(mine, Encoder(replace(small, stride=2), (32, 32)), fresh=True)


def test_bytes_are_those_of_what_is_remembered() -> None:
    shapes, like = ModelShapes(32, 2, 3), torch.zeros(())
    small = ModelConfig(memory="latent_bounded", stride=4, width=8, latent_dim=8).sized(50_000)
    slots = (50_000 - 16) // (21 + 2 * 8)
    bounded = build_model(small, shapes)
    assert bounded.memory_bytes(bounded.initial_state(1)).charged == slots * (21 + 2 * 8) + 16
    context = build_model(replace(small, memory="context"), shapes)
    pose = torch.eye(4).expand(1, 4, 4)
    world = ContextFrames.empty(1, (32, 32), like).add(torch.rand(1, 3, 32, 32), pose).add(torch.rand(1, 3, 32, 32), pose)
    assert context.memory_bytes(replace(context.initial_state(1), world=world)).charged == 2 * (3 * 32 * 32 + 16 * 4) + 8 + 8
    recurrent = build_model(replace(small, memory="recurrent", recurrent=RecurrentConfig(units=16)), shapes)
    assert recurrent.memory_bytes(recurrent.initial_state(1)).charged == 4 * (16 + 16)


def words(folder: Path, *more: str) -> list[str]:
    found = ["reproduce", "memories", "--preset", "debug", f"out={folder}/runs", f"results={folder}/results"]
    return [*found, "eval_seed=3", "collect.steps=40", "loop_episodes=1", "processes=1", *more]


@pytest.mark.slow
def test_the_matrix_is_written_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words(tmp_path, "train.steps=1", "memories=none,latent_bounded,patches,oracle", "loops=yaw-30")
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("latent cache, 128 KiB", "oracle (patches", "return /", "memory (KiB)"))
    folder, results = tmp_path / "runs/memories", tmp_path / "results"
    with (results / "memories.csv").open() as file:
        rows = {(row["row"], row["seed"], row["figure"]): float(row["mean"]) for row in csv.DictReader(file)}
    keys = {"none", "latent_bounded-131072", "latent_bounded", "patches", "oracle"}
    differences = {"patches - latent_bounded", "oracle - patches", "patches - none", *(f"patches - {row}" for row in HONEST)}
    assert {row for row, _, _ in rows} == keys | differences | set(HONEST)
    gain = rows["patches", "0", "psnr_seen"] - rows["none", "0", "psnr_seen"]
    assert rows["patches - none", "pooled", "psnr_seen"] == pytest.approx(gain, abs=1e-3)
    assert rows["oracle", "0", "abs_rel_seen"] < rows["patches", "0", "abs_rel_seen"]
    assert rows["latent_bounded-131072", "pooled", "memory_bytes"] <= 2**17 < rows["latent_bounded", "pooled", "memory_bytes"]
    assert rows["none", "pooled", "memory_bytes"] == 3 * 64 * 64 + 64
    assert ("patches", "0", "yaw-30 return_psnr") in rows and ("oracle", "0", "yaw-30 return_psnr") not in rows
    assert "bytes of memory" in (results / "memories.svg").read_text() and "<svg" in (folder / "index.html").read_text()
    depth = [load(str(folder / f"{row}-seed0")).encoder.trunk for row in ("patches", "latent_bounded")]  # type: ignore[attr-defined]
    given = load("base").encoder.trunk.state_dict()  # type: ignore[attr-defined]
    assert all(torch.equal(values, given[name]) for trunk in depth for name, values in trunk.state_dict().items())

    figures = (results / "memories.csv").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.csv")}
    lost = folder / "latent_bounded-131072-seed0.yaw-30.csv"
    lost.unlink()
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "nothing to collect" in shown and "train and judge latent_bounded\n" in shown
    assert (results / "memories.csv").read_bytes() == figures
    changed = {path.name.partition(".")[0] for path in kept if path.stat().st_mtime_ns != kept[path]}
    assert changed == {"latent_bounded-131072-seed0"}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["memories=patches,patches"], "memories=['patches', 'patches']: expected distinct ones"),
        (["loops=yaw-400"], "path=yaw-400: turns by at most 360 degrees"),
        (["cache_bytes=1000"], "bytes=1000: holds 26 tokens of 37 bytes, fewer than the 1024 cells of one frame"),
        (["encoder=bass"], "no model at bass"),
        (["collect.env_options.image_size=32"], "collect.env_options.image_size=32: encoder=base is for 64"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_done(
    given: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(tmp_path, *given)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"liftwm: error: {line}") and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
