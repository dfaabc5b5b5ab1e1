"""`liftwm reproduce priors`: in what its models differ, what it writes, and what it does not do again."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from embodied_liftwm import cli
from embodied_liftwm.commands import load_config
from embodied_liftwm.config import DoseConfig, ReproducePriorsConfig, TrainConfig
from embodied_liftwm.evaluation.results_table import TableFigure
from embodied_liftwm.experiments import liftwm
from embodied_liftwm.experiments.engine import HONEST
from embodied_liftwm.experiments.priors.doses import Dose, dose_figures
from embodied_liftwm.experiments.priors.experiment import Lessons, Student, dosed, lessons
from embodied_liftwm.experiments.priors.report import headline
from embodied_liftwm.experiments.priors.teachers import Teacher

MVS = Teacher("mvs", "0" * 16, ("depth", "normals"))
SPLATS = Teacher("gaussian_splatting", "1" * 16, ("depth", "views"))


@pytest.fixture
def config() -> ReproducePriorsConfig:
    words = ["train.seed=4", "teachers=mvs,gaussian_splatting", "alone_seeds=2"]
    return replace(load_config(ReproducePriorsConfig, "small", words), doses=DoseConfig())


def settings(config: ReproducePriorsConfig, student: Student) -> TrainConfig:
    return Lessons(config, {5: [student]}).settings(student.row, 5)


def test_students_differ_in_their_teachers_alone(config: ReproducePriorsConfig) -> None:
    found = lessons(config, {"mvs": MVS, "gaussian_splatting": SPLATS}, 5)
    assert [student.row for student in found] == [
        f"{base}{taught}"
        for base in ("2d_only", "glo")
        for taught in ("", "+mvs", "+gaussian_splatting", "+mvs+gaussian_splatting")
    ]
    for student in found:
        base, own = liftwm.changes(config.train, student.base), settings(config, student)
        assert replace(own, terms=base.terms, priors=(), data=base.data, run=base.run, seed=base.seed) == base
        assert own.seed == 5
        assert own.terms[: len(base.terms)] == base.terms
    by_row = {student.row: settings(config, student) for student in found}
    terms = by_row["glo"].terms
    assert by_row["glo+mvs"].terms == (*terms, "teacher_depth", "teacher_normals")
    assert by_row["glo+gaussian_splatting"].terms == (*terms, "teacher_depth", "teacher_views")
    both = by_row["glo+mvs+gaussian_splatting"]
    assert both.terms == (*terms, "teacher_depth", "teacher_normals", "teacher_views")
    assert both.priors == (f"mvs-{'0' * 16}", f"gaussian_splatting-{'1' * 16}") and by_row["glo"].priors == ()
    assert len({own.run for own in by_row.values()}) == 8


def test_later_seeds_leave_out_single_teachers_where_asked(config: ReproducePriorsConfig) -> None:
    both = {"mvs": MVS, "gaussian_splatting": SPLATS}
    together = ["2d_only", "2d_only+mvs+gaussian_splatting", "glo", "glo+mvs+gaussian_splatting"]
    assert [student.row for student in lessons(config, both, 6)] == together
    assert len(lessons(replace(config, alone_seeds=0), both, 6)) == 8
    single = replace(config, teachers=("mvs",), bases=("glo",))
    assert [student.row for student in lessons(single, both, 6)] == ["glo", "glo+mvs"]


def test_every_dose_has_two_forms_with_caches_of_their_own(config: ReproducePriorsConfig) -> None:
    students = dosed(config, MVS, 5, held=False)
    assert list(students)[:3] == [None, Dose("clean", "weighted", 0.0), Dose("clean", "unweighted", 0.0)]
    assert students[None].row == "glo" and students[Dose("clean", "weighted", 0.0)].row == "glo+mvs"
    assert students[Dose("noise", "unweighted", 0.3)].row == "glo+mvs-noise-0.3-unweighted"
    assert len(students) == 3 + 2 * (2 * 3 + 1) == len({student.row for student in students.values()})
    corrupted = [student for student in students.values() if student.corruption]
    caches = {settings(config, student).priors for student in corrupted}
    assert len(caches) == len(corrupted) and all(cache.startswith("mvs-") for (cache,) in caches)
    views = dosed(config, SPLATS, 5, held=False)[Dose("noise", "weighted", 0.1)]
    assert "teacher_views" not in settings(config, views).terms and "teacher_depth" in settings(config, views).terms


def test_students_that_do_not_learn_the_noise_differ_in_that_alone(config: ReproducePriorsConfig) -> None:
    learned, held = (dosed(config, MVS, 5, held) for held in (False, True))
    assert [student.row for student in held.values()][1:] == [f"{s.row}-held" for s in list(learned.values())[1:]]
    assert {dose.form for dose in held if dose} == {"weighted, noise held", "unweighted, noise held"}
    for one, other in zip(list(learned.values())[1:], list(held.values())[1:], strict=True):
        its, others = settings(config, one), settings(config, other)
        assert (its.teacher_noise, others.teacher_noise) == ("learned", "held") and its.run != others.run
        assert replace(others, teacher_noise="learned", run=its.run) == its


def test_the_headline_says_what_is_short_of_the_aim() -> None:
    def figure(row: str, name: str, mean: float, low: float, high: float) -> TableFigure:
        return TableFigure(row, "pooled", name, mean, low, high, 9, 3)

    taught = "glo+mvs - glo"
    figures = [figure(taught, "psnr_seen", 0.9, 0.7, 1.1), figure(taught, "depth_rmse_seen_m_change", -8.2, -9.0, -7.0)]
    doses = {
        "c": Dose("clean", "weighted", 0.0),
        "n": Dose("noise", "weighted", 0.4),
        "p": Dose("pure_noise", "unweighted", 1.0),
    }
    doses["u"] = Dose("clean", "unweighted", 0.0)
    given = {"c": 0.3, "n": -0.3, "p": -0.25, "u": -0.1}
    response = [figure(row, "psnr_seen", mean, mean - 0.1, mean + 0.1) for row, mean in given.items()]
    lines = headline(figures, dose_figures(response, doses))
    assert lines[0].startswith("distillation over GLO, mvs: +0.90 [0.70, 1.10] dB, depth RMSE -8.2 [-9.0, -7.0] %")
    assert lines[0].endswith("(aim: +0.8 dB, reached; -10 %, not reached)")
    assert lines[1] == "pure noise, unweighted, costs 0.25 dB [0.15, 0.35] (aim: less than 0.1 dB, not reached)"
    assert "noise, PSNR: turns from help to harm weighted at 0.2; unweighted without corruption already" in lines[2]


def words(folder: Path, *more: str) -> list[str]:
    return ["reproduce", "priors", "--preset", "debug", f"out={folder}/runs", f"results={folder}/results", *more]


@pytest.mark.slow
def test_both_tables_are_written_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = words(tmp_path, "bases=glo", "teachers=mvs", "train.steps=2", "doses.pure_noise=false", "eval_seed=3")
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("prior mvs observes 2 episodes", "distillation over GLO, mvs:", "noise, PSNR"))
    folder, results = tmp_path / "runs/priors", tmp_path / "results"
    with (results / "priors.csv").open() as file:
        rows = {(row["row"], row["seed"], row["figure"]): float(row["mean"]) for row in csv.DictReader(file)}
    assert {row for row, _, _ in rows} == {"glo", "glo+mvs", "glo+mvs - glo", *HONEST, *(f"glo - {row}" for row in HONEST)}
    taught, alone = rows["glo+mvs", "pooled", "psnr_seen"], rows["glo", "pooled", "psnr_seen"]
    assert rows["glo+mvs - glo", "pooled", "psnr_seen"] == pytest.approx(taught - alone, abs=1e-3)
    with (results / "priors_dose.csv").open() as file:
        doses = {(row["kind"], row["form"], row["figure"]): float(row["mean"]) for row in csv.DictReader(file)}
    assert doses["noise", "weighted", "teacher_abs_rel"] > doses["clean", "weighted", "teacher_abs_rel"] > 0
    assert doses["clean", "weighted", "teacher_abs_rel"] == rows["glo+mvs", "pooled", "teacher_abs_rel"]
    assert ("noise", "unweighted", "psnr_seen_turns_at") in doses and ("noise", "weighted", "persistence") in doses
    assert ("noise", "unweighted, noise held", "psnr_seen") in doses
    assert "deviation of log-depth" in (results / "priors_dose.svg").read_text()
    assert "teachers made worse" in (folder / "index.html").read_text()
    assert [path.name[:4] for path in (folder / "data/train/priors").iterdir()] == ["mvs-"]  # corrupted ones are gone

    figures = (results / "priors_dose.csv").read_bytes()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.csv")}
    lost = folder / "glo+mvs-noise-0.5-weighted-seed0.views.csv"
    lost.unlink()
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert "nothing to collect" in shown and "observes" not in shown
    assert "train and judge glo+mvs-noise-0.5-weighted\n" in shown
    assert (results / "priors_dose.csv").read_bytes() == figures
    changed = {path.name for path in kept if path.stat().st_mtime_ns != kept[path]}
    assert changed == {lost.name, lost.name.replace("views", "persistence")}
    assert cli.main([*command, "collect.episodes=1"]) == 2
    assert "choose another out=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["teachers=inhouse_dept"], "no prior 'inhouse_dept': did you mean inhouse_depth?"),
        (["teachers=mvs,mvs"], "teachers=['mvs', 'mvs']: expected distinct names"),
        (["bases=mv"], "bases=mv: expected list of 2d_only | glo"),
        (["doses.noise=0"], "doses.noise=0.0: must be above 0"),
        (["doses.pose=0.1"], "unknown key 'doses.pose': doses are doses.noise and doses.outliers"),
        (["doses.outliers=1.5"], "doses.outliers=1.5: must be at most 1"),
        (["teachers=depth_anything"], "prior depth_anything: "),
    ],
)
def test_mistakes_are_one_line_before_anything_is_done(
    given: list[str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(tmp_path, *given)) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"liftwm: error: {line}") and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()
