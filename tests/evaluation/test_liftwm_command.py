"""`liftwm reproduce liftwm`: in what its models differ, what it writes, and what it does not do again."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from embodied_liftwm import cli
from embodied_liftwm.commands import load_config
from embodied_liftwm.config import EVAL_SEED_OFFSET, REPORT_SEED, ReproduceLiftwmConfig, TrainConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.experiments.engine import HONEST, TWO_D_TERMS
from embodied_liftwm.experiments.liftwm import BOUNDS, Liftwm
from embodied_liftwm.tensor_tree import TensorTree
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model


@pytest.fixture
def config() -> ReproduceLiftwmConfig:
    return load_config(ReproduceLiftwmConfig, "small", ["train.seed=4"])


def test_every_row_has_the_same_data_steps_and_seed(config: ReproduceLiftwmConfig):
    rows = [Liftwm(config).settings(row, 5) for row in Liftwm(config).trained_rows(5)]
    assert len(rows) == 6 and len({row.run for row in rows}) == 6
    for name in ("data", "steps", "minutes", "batch_size", "context", "targets", "span", "seed", "threads"):
        assert len({getattr(row, name) for row in rows}) == 1, name
    assert rows[0].steps == config.train.steps and rows[0].minutes == 0 and rows[0].seed == 5
    for name in ("latent_dim", "stride", "width", "planes"):
        assert len({getattr(row.model, name) for row in rows}) == 1, name


def test_states_are_of_about_as_many_bytes(config: ReproduceLiftwmConfig):
    shapes, sizes = ModelShapes(32, 2, 3), {}
    for row in ("2d_only", "mv"):
        state: TensorTree = build_model(Liftwm(config).settings(row, 0).model, shapes).initial_state(1)
        sizes[row] = state.nbytes()
    assert sizes["2d_only"] == pytest.approx(sizes["mv"], rel=0.06)


def test_rows_differ_in_what_their_names_say(config: ReproduceLiftwmConfig):
    rows = {row: Liftwm(config).settings(row, 5) for row in Liftwm(config).trained_rows(5)}
    default = TrainConfig()
    two_d = rows["2d_only"]
    assert two_d.terms == TWO_D_TERMS and two_d.geometry_first == 0
    assert (two_d.model.stereo_sources, two_d.model.epipolar_heads, two_d.model.frame_moves_depth) == (0, 0, True)

    def like(row: TrainConfig, other: TrainConfig, **model: object) -> TrainConfig:
        return replace(row, run=other.run, learning_rate=other.learning_rate, model=replace(row.model, **model))

    epipolar = rows["epipolar"]
    assert epipolar.model.epipolar_heads > 0 and epipolar.model.stereo_sources > 0
    assert like(epipolar, two_d, epipolar_heads=0, stereo_sources=0) == two_d
    assert like(replace(rows["depth_normal"], terms=TWO_D_TERMS), two_d) == two_d
    assert set(rows["depth_normal"].terms) - set(TWO_D_TERMS) == {"depth_normal"}
    assert two_d.model.memory == "gaussians" and two_d.model.size == 32 * config.train.model.size
    mv, glo = rows["mv"], rows["glo"]
    assert mv.model.memory == "patches"
    assert mv.terms == default.terms and mv.model == config.train.model and mv.geometry_first == default.geometry_first
    assert set(glo.terms) - set(mv.terms) == {"depth_normal"} and glo.model.epipolar_heads > 0
    assert like(replace(glo, terms=mv.terms), mv, epipolar_heads=0) == mv
    assert rows["recurrent"].model.memory == "recurrent" and rows["recurrent"].terms == default.terms


def test_bounds_and_budgets_are_the_weights_of_all_terms(config: ReproduceLiftwmConfig):
    keys = list(Liftwm(config).made_of("glo"))
    assert keys[:4] == ["glo", "none", "oracle", "glo-64"] and len(keys) == 3 + len(config.budgets)
    assert Liftwm(replace(config, rows=("none", "2d_only"))).trained_rows(4) == ["glo", "2d_only"]
    assert Liftwm(replace(config, rows=("2d_only",))).trained_rows(4) == ["2d_only"]
    assert list(Liftwm(replace(config, rows=("glo",), budgets=())).made_of("glo")) == ["glo"]
    assert not set(BOUNDS) & set(Liftwm(config).trained_rows(4))


def test_every_table_has_the_rows_that_learn_nothing(config: ReproduceLiftwmConfig):
    it = Liftwm(config)
    for row in it.trained_rows(4):
        assert set(HONEST) & set(it.rows_of(row, 4)) == (set(HONEST) if row == "glo" else set())
    alone = Liftwm(replace(config, rows=("2d_only",)))  # the row that the table is about is not trained
    assert set(HONEST) < set(alone.rows_of("2d_only", 4))
    recurrent = Liftwm(replace(config, rows=("recurrent",)))
    assert set(HONEST) - set(recurrent.rows_of("recurrent", 4)) == {
        "matching",
        "frame_warp",
    }  # it lifts nothing that could be matched
    assert set(it.compared(["glo", *HONEST])) == {("glo", row) for row in HONEST}


@pytest.mark.slow
def test_the_table_is_written_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = ["reproduce", "liftwm", "--preset", "debug", f"out={tmp_path}/runs", f"results={tmp_path}/results"]
    command += ["eval_seed=3", "collect.steps=40", "train.steps=2", "rows=2d_only,oracle"]
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("2D only", "oracle (true depth)", "epipolar (px)", "N = 64", "N = 256"))
    folder, results = tmp_path / "runs/liftwm", tmp_path / "results"
    seeds = [episode.meta["seed"] for episode in EvaluationReader(folder / "data/eval")]
    assert seeds == [EVAL_SEED_OFFSET + 3, EVAL_SEED_OFFSET + 4] and max(seeds) < EVAL_SEED_OFFSET + REPORT_SEED
    with (results / "liftwm.csv").open() as file:
        rows = {(row["row"], row["seed"], row["figure"]): row for row in csv.DictReader(file)}
    assert {row for row, _, _ in rows} == {"2d_only", "oracle", *HONEST} and {seed for _, seed, _ in rows} == {"0", "pooled"}
    assert float(rows["matching", "0", "psnr_seen"]["mean"]) > float(rows["mean_colour", "0", "psnr_seen"]["mean"])
    assert "matching (no network)" in shown
    assert float(rows["oracle", "0", "abs_rel_seen"]["mean"]) < float(rows["2d_only", "0", "abs_rel_seen"]["mean"])
    with (results / "liftwm_budget.csv").open() as file:
        sizes = {int(row["budget"]): float(row["mean"]) for row in csv.DictReader(file) if row["figure"] == "state_bytes"}
    assert sorted(sizes) == [64, 256] and sizes[64] < sizes[256]
    assert (results / "liftwm_strip.png").read_bytes().startswith(b"\x89PNG")
    assert "primitives in the state" in (results / "liftwm_budget.svg").read_text()
    assert "oracle (true depth)" in (folder / "index.html").read_text()

    figures = (results / "liftwm.csv").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.csv")}
    views, persistence = folder / "oracle-seed0.views.csv", folder / "oracle-seed0.persistence.csv"
    views.unlink()  # killed before the oracle was judged, and before anything was reported
    (results / "liftwm.csv").unlink()
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "nothing to collect" in shown and "train and judge glo\n" in shown
    assert (results / "liftwm.csv").read_bytes() == figures
    assert {path for path in kept if path.stat().st_mtime_ns != kept[path]} == {views, persistence}

    assert cli.main([*command, "eval_episodes=3"]) == 2
    assert "holds a run with eval_episodes=2, asked for eval_episodes=3: choose another out=" in capsys.readouterr().err
