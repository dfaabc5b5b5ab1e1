"""`liftwm reproduce gap`: what it writes, what it does not do again, and what it refuses."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from embodied_liftwm import cli
from embodied_liftwm.commands import load_config
from embodied_liftwm.config import EVAL_SEED_OFFSET, REPORT_SEED, ReproduceGapConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.evaluation.rows import read_rows
from embodied_liftwm.experiments.engine import GAUSSIANS_A_PATCH, HONEST, TWO_D_TERMS
from embodied_liftwm.experiments.gap.experiment import Support
from embodied_liftwm.experiments.gap.views import GLO, TWO_D, GapRow


def words(folder: Path, *more: str) -> list[str]:
    return ["reproduce", "gap", "--preset", "debug", f"out={folder}/runs", f"results={folder}/results", *more]


def test_the_two_models_differ_in_what_only_the_added_terms_could_teach() -> None:
    config = load_config(ReproduceGapConfig, "small", ["train.seed=4"])
    it = Support(config, 0.3)
    assert it.trained_rows(5) == [TWO_D, GLO]
    two_d, glo = (it.settings(row, 5) for row in (TWO_D, GLO))
    assert two_d.terms == TWO_D_TERMS and glo.terms == config.train.terms
    assert set(TWO_D_TERMS) < set(glo.terms)
    assert (two_d.model.stereo_sources, two_d.model.frame_moves_depth) == (0, True)
    assert (two_d.model.memory, two_d.model.size) == ("gaussians", GAUSSIANS_A_PATCH * glo.model.size)
    names = ("stereo_sources", "epipolar_heads", "frame_moves_depth", "memory", "gaussians")
    model = replace(two_d.model, **{name: getattr(glo.model, name) for name in names})
    alike = replace(two_d, terms=glo.terms, geometry_first=glo.geometry_first, run=glo.run, model=model)
    assert alike == glo
    assert glo.seed == 5 and glo.data == two_d.data
    assert list(it.seeds) == [4, 5, 6] and Support(config, 1.0).settings(GLO, 5).data != glo.data
    assert it.table_rows() == [TWO_D, GLO, *HONEST]


def test_the_toy_alone_writes_its_rows_and_collects_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(tmp_path, "parts=toy")) == 0
    shown = capsys.readouterr().out
    assert "36 of 36" in shown and "0 of 36" in shown
    with (tmp_path / "results/gap_toy.csv").open() as file:
        ranks = {(float(row["support_m"]), row["terms"]): int(row["rank"]) for row in csv.DictReader(file)}
    assert (ranks[0.0, "2D"], ranks[0.3, "2D"], ranks[0.0, "2D + GLO with teachers"]) == (0, 36, 36)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_curve_is_written_resumed_and_refused_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(tmp_path, "parts=curve", "supports_m=0.3", "eval_seed=3")
    assert cli.main(command) == 0
    place = tmp_path / "runs/gap/support-0.3"
    rows = read_rows(place / "glo-seed0.views.csv", GapRow) + read_rows(place / "2d_only-seed0.views.csv", GapRow)
    assert {(row.model, row.kind) for row in rows} == {(m, k) for m in (GLO, TWO_D) for k in ("context", "displaced")}
    assert {row.share for row in rows if row.model == TWO_D} == {0.3, 0.5, 0.7, 1.0}  # of four steps
    assert {row.share for row in rows if row.model == GLO} == {0.7, 1.0}
    seeds = [episode.meta["seed"] for episode in EvaluationReader(place / "data/eval")]
    assert seeds == [EVAL_SEED_OFFSET + 3, EVAL_SEED_OFFSET + 4] and max(seeds) < EVAL_SEED_OFFSET + REPORT_SEED
    figures = (tmp_path / "results/gap.csv").read_text()
    assert "0.3,equal,glo - 2d_only,pooled,psnr_seen" in figures
    assert all(f"0.3,final,{row},pooled,psnr_seen" in figures for row in HONEST)
    assert (tmp_path / "results/gap.svg").read_text().count("camera support") > 0

    kept = (place / "glo-seed0.views.csv").stat().st_mtime_ns
    (place / "2d_only-seed0.views.csv").unlink()
    capsys.readouterr()
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "nothing to collect" in shown and "glo " not in shown.partition("Displaced")[0]
    assert (place / "glo-seed0.views.csv").stat().st_mtime_ns == kept
    assert (tmp_path / "results/gap.csv").read_text() == figures

    assert cli.main([*command, "displaced_m=0.8"]) == 2
    line = capsys.readouterr().err
    assert "holds a run with displaced_m=0.5, asked for displaced_m=0.8: choose another out=" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["gop"], "no experiment 'gop': did you mean gap?"),
        (["gap", "supports_m=0.3,0.3"], "supports_m=[0.3, 0.3]: expected distinct radii"),
        (["gap", "supports_m=-1"], "supports_m=-1.0: must be at least 0"),
        (["gap", "context=96"], "context=96: must be below collect.steps=96"),
        (["gap", "parts=figure"], "parts=figure: expected list of toy | curve"),
        (["gap", "sed=1"], "unknown key 'sed'"),
        (["liftw"], "no experiment 'liftw': did you mean liftwm?"),
        (["liftwm", "rows=glo,glo"], "rows=['glo', 'glo']: expected distinct ones out of none, recurrent, 2d_only"),
        (["liftwm", "rows=gloo"], "rows=gloo: expected list of none | recurrent | 2d_only"),
        (["liftwm", "budgets=8"], "budgets=8: must be at least 16"),
    ],
)
def test_mistakes_are_one_line(given: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"liftwm: error: {line}") and error.count("\n") == 1
