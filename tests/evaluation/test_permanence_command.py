"""The permanence benchmark end to end, on the very model of docs/evaluate_your_model.md."""

import csv
import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from embodied_liftwm import cli
from embodied_liftwm.commands.evaluate import evaluate
from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions, EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.permanence import benchmark
from embodied_liftwm.evaluation.permanence.making import make_manifest
from embodied_liftwm.evaluation.permanence.manifest import write_manifest
from embodied_liftwm.evaluation.permanence.suites import Suite
from embodied_liftwm.evaluation.permanence.unfinished import Unfinished
from embodied_liftwm.evaluation.readings.outcomes import OUTCOMES, RenderRow, VerdictRow

PAGE = Path(__file__).resolve().parents[2] / "docs/evaluate_your_model.md"
SEED = EVAL_SEED_OFFSET + 4321


def block() -> str:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> EvaluateConfig:
    root = tmp_path_factory.mktemp("permanence")
    (root / "nearest_frame.py").write_text(block())
    (root / "broken_frame.py").write_text(BROKEN)
    write_manifest(make_manifest("Revisit-S", EnvOptions(), 2, SEED), root / "manifests")
    return EvaluateConfig(
        model="nearest_frame:make_model", suite=("readings",), tasks=("Revisit-S",), manifests=str(root / "manifests"),
        permanence_episodes=1, probe_episodes=3, bootstrap=20, workers=1, out=str(root / "out"),
    )  # fmt: skip


BROKEN = """
import dataclasses, torch
from nearest_frame import NearestFrame
class Shape(NearestFrame):
    def render(self, state, camera):
        view = super().render(state, camera)
        return dataclasses.replace(view, depth=view.depth[:, :, 1:])
class NotANumber(NearestFrame):
    def summarize(self, state):
        return super().summarize(state) / torch.zeros(1)
Blind = type("Blind", (), {name: value for name, value in vars(NearestFrame).items() if name != "render"})
class Mute(NearestFrame):
    render = surprise = None
"""


@pytest.fixture(scope="module")
def metrics(prepared):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(Path(prepared.out).parent)
        patch.syspath_prepend(str(Path(prepared.out).parent))
        yield evaluate(prepared, Console(quiet=True))


def test_the_model_of_the_page_is_short():
    lines = [line for line in block().splitlines() if line.strip()]
    assert len(lines) <= 60


def test_everything_is_written(prepared, metrics):
    out = Path(prepared.out)
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    rows = list(csv.DictReader((out / "rows.csv").open()))
    assert {row["reading"] for row in rows} == {"probe", "render", "act", "verdict"}
    assert {row["model"] for row in rows if row["reading"] == "act"} == {"model", "random", "oracle"}
    assert {row["model"] for row in rows if row["reading"] == "render"} == {"model", "floor"}
    assert all({row["suite"], row["task"], row["seed"]} == {"readings", "Revisit-S", str(SEED)} for row in rows)
    page = (out / "report/index.html").read_text()
    assert "A quick look, not the benchmark" in page and "first 1 episodes" in page
    assert metrics["manifests"]["Revisit-S"]["sha256"][:16] in page
    for video in re.findall(r'video src="([^"]+)"', page):
        assert (out / "report" / video).stat().st_size > 1000


def test_figures_agree_with_the_rows(prepared, metrics):
    rows = list(csv.DictReader((Path(prepared.out) / "rows.csv").open()))
    found = metrics["tasks"]["Revisit-S"]["readings"]
    errors = [float(row["probe_error_m"]) for row in rows if row["reading"] == "probe"]
    assert found["probe"]["model"]["error_m"]["mean"] == pytest.approx(sum(errors) / len(errors))
    (verdict,) = [row["outcome"] for row in rows if row["reading"] == "verdict"]
    assert verdict in OUTCOMES and found["fails"]["model"][verdict]["mean"] == 1.0
    assert found["act"]["oracle"]["success"]["mean"] == 1.0  # a manifest holds what the oracle solves


def test_processes_and_a_second_run_change_nothing(prepared, metrics, tmp_path):
    again = evaluate(dataclasses.replace(prepared, workers=2, out=str(tmp_path)), Console(quiet=True))
    assert again["tasks"] == metrics["tasks"] and again["manifests"] == metrics["manifests"]
    assert (tmp_path / "rows.csv").read_bytes() == (Path(prepared.out) / "rows.csv").read_bytes()


@pytest.mark.usefixtures("metrics")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Shape", r"broken_frame:Shape: render: depth expected \[1, 64, 64\], got \[1, 64, 63\] at episode 0, frame \d+"),
        ("NotANumber", r"broken_frame:NotANumber: summarize: its output holds NaN .* at episode 0, frame \d+"),
        ("Blind", "model=broken_frame:Blind lacks render: see embodied_liftwm.protocols.WorldModel"),
        ("Mute", "model=broken_frame:Mute lacks render, surprise: see embodied_liftwm.protocols.WorldModel"),
    ],
)
def test_nonsense_is_named_with_its_place(prepared, name, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluate(dataclasses.replace(prepared, model=f"broken_frame:{name}"), Console(quiet=True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tasks": ("Revisit-S", "Search-S")}, "task Search-S has no manifest in .*; these have: Revisit-S"),
        ({"model": "tests.plain_model:make_model"}, "manifest of Revisit-S has images of 64x64, model .* is for 32x32"),
    ],
)
def test_mistakes_are_named_before_any_work(prepared, changed, message):
    with pytest.raises(UserError, match=message):
        evaluate(dataclasses.replace(prepared, **changed), Console(quiet=True))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("suite=permanenc",), "suite=permanenc: expected list of views | persistence | navigation | permanence | readings |"),
        (("parts=readings",), "unknown key 'parts': it is suite= now"),
        (("suites=permanence",), "unknown key 'suites': it is suite= now"),
        (("suite=readings,views",), "suite=readings,views: some of views, persistence, navigation, or permanence, or some of"),
        (("suite=permanence,readings",), "or some of its suites; not together"),
        (
            ("suite=expectation", "tasks=Occlusion-S", "manifests="),
            "suite=expectation runs on tasks Revisit, MovingOcclusion; none of them",
        ),
        (("tasks=Revist-S",), "task Revist-S has no manifest in "),
        (("model=nowhere",), "no model at nowhere"),
        (("model=nowhere:make_model",), "nowhere"),
        (("planner.planner=cme",), "planner.planner=cme"),
        (("policy=nowhere",), "no policy at nowhere"),
        (
            ("model=broken_frame:Shape",),
            "render: depth expected [1, 64, 64], got [1, 64, 63] at episode 0, frame 1",
        ),
        (
            ("model=broken_frame:NotANumber",),
            "summarize: its output holds NaN or infinity at ",
        ),
        (("manifests=changed",), "was changed in entry 1 of 'episodes'"),
    ],
)
@pytest.mark.usefixtures("metrics")
def test_one_line_and_2_on_the_command_line(prepared, words, line, capsys):
    changed = shutil.copytree(prepared.manifests, Path("changed"), dirs_exist_ok=True) / "permanence-Revisit-S.json"
    changed.write_text(changed.read_text().replace(str(SEED + 1), str(SEED + 7), 1))
    given = {"model": prepared.model, "suite": "permanence", "tasks": "Revisit-S", "manifests": prepared.manifests}
    given |= {"out": "refused", "permanence_episodes": 1} | dict(word.split("=", 1) for word in words)
    capsys.readouterr()
    try:
        code = cli.main(["evaluate", *(f"{name}={value}" for name, value in given.items())])
    except SystemExit as left:
        code = left.code
    error = capsys.readouterr().err
    assert code == 2 and line in error and error.count("\n") == 1, error


@pytest.mark.usefixtures("metrics")
@pytest.mark.parametrize("seen", ["state", "recurrent"])
def test_a_learned_policy_acts_beside_the_planner(prepared, seen, tmp_path):
    run = tmp_path / "policy"
    words = f"input={seen} model={prepared.model} env=Revisit-S steps=32 num_envs=1 rollout_steps=32 batch_size=32 starts=1"
    assert cli.main(["train-agent", *words.split(), "evaluate_every=0", f"run={run}"]) == 0
    assert (run / "policy.safetensors").is_file()
    given = {"model": prepared.model, "suite": "permanence", "tasks": "Revisit-S", "manifests": prepared.manifests}
    given |= {"suite": "readings", "permanence_episodes": 1, "probe_episodes": 3, "bootstrap": 20, "workers": 1}
    assert cli.main(["evaluate", *(f"{k}={v}" for k, v in given.items()), f"policy={run}", f"out={tmp_path}/out"]) == 0
    rows = [row for row in csv.DictReader((tmp_path / "out/rows.csv").open()) if row["reading"] == "act"]
    assert [row["model"] for row in rows] == ["model", "policy", "random", "oracle"]
    (learned,) = (row for row in rows if row["model"] == "policy")
    assert int(learned["steps"]) > 0 and learned["seed"] == str(SEED)
    found = json.loads((tmp_path / "out/metrics.json").read_text())["tasks"]["Revisit-S"]["readings"]["act"]
    assert set(found) == {"model", "policy", "random", "oracle"}
    assert "learned policy" in (tmp_path / "out/report/index.html").read_text()


SUITE = Suite("toy", "Toy", "", None, None, None, rows=(VerdictRow, RenderRow))
ROWS = [
    VerdictRow("model", "Revisit-S", 0, 7, "verdict", 9, 1.0, math.nan, 0.0, "not used"),
    RenderRow("model", "Revisit-S", 0, 7, "render", 1, 1, 3, 9, "return", 20, 0.1 + 0.2, 1 / 3, 0.5, math.inf),
]


def test_what_an_interrupted_run_finished_is_kept_for_the_same_command_alone(prepared, tmp_path):
    config = dataclasses.replace(prepared, out=str(tmp_path))
    models = [SimpleNamespace(model=torch.nn.Linear(2, 2))]
    kept = Unfinished(config, models, {"Revisit-S": "text"})
    assert kept.read("Revisit-S", SUITE) is None
    kept.write("Revisit-S", SUITE, ROWS)
    again = Unfinished(dataclasses.replace(config, workers=7, bootstrap=3), models, {"Revisit-S": "text"})
    assert repr(again.read("Revisit-S", SUITE)) == repr(ROWS)  # to the last bit, with NaN and infinity
    assert Unfinished(config, models, {"Revisit-S": "other"}).read("Revisit-S", SUITE) is None
    with torch.no_grad():
        models[0].model.weight += 1
    assert Unfinished(config, models, {"Revisit-S": "text"}).read("Revisit-S", SUITE) is None
    with pytest.raises(UserError, match=r"unfinished holds a run with probe_episodes=3, asked for probe_episodes=4: .*remove"):
        Unfinished(dataclasses.replace(config, probe_episodes=4), models, {"Revisit-S": "text"})
    again.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("metrics")
def test_an_interrupted_run_goes_on_where_it_was(prepared, metrics, tmp_path, monkeypatch):
    """The second suite is broken off; the first is not measured again, and the figures are those of a run in one go."""
    config = dataclasses.replace(prepared, out=str(tmp_path), suite=("readings", "hidden_changes"), probe_episodes=3)
    monkeypatch.setattr(benchmark, "choose_suites", lambda c, _, *who: [benchmark.suites(*who)["readings"], broken_off()])
    with pytest.raises(KeyboardInterrupt):
        evaluate(config, Console(quiet=True))
    assert [path.name for path in (tmp_path / "unfinished").glob("*.json")] == ["Revisit-S-readings.json"]
    monkeypatch.setattr(benchmark, "choose_suites", lambda c, _, *who: [not_again(benchmark.suites(*who)["readings"])])
    resumed = evaluate(config, Console(quiet=True))
    assert resumed["tasks"]["Revisit-S"]["readings"] == metrics["tasks"]["Revisit-S"]["readings"]
    assert not (tmp_path / "unfinished").exists()


def broken_off() -> Suite:
    def measure(*given):
        raise KeyboardInterrupt

    return Suite("controls", "", "", measure, None, None)


def not_again(suite: Suite) -> Suite:
    def measure(*given):
        raise AssertionError("measured again")

    return dataclasses.replace(suite, measure=measure)


def test_a_changed_byte_ends_the_run(prepared, tmp_path):
    shutil.copytree(prepared.manifests, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "permanence-Revisit-S.json"
    path.write_text(path.read_text().replace(str(SEED + 1), str(SEED + 7), 1))
    with pytest.raises(UserError, match="entry 1 of 'episodes'"):
        evaluate(dataclasses.replace(prepared, manifests=str(tmp_path)), Console(quiet=True))


def test_the_last_frame_alone_forgets(episodes):
    from embodied_liftwm.config import ModelConfig
    from embodied_liftwm.evaluation.navigation.contestants import LastFrameAlone
    from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
    from embodied_liftwm.world_model.base import ModelShapes
    from embodied_liftwm.world_model.build import build_model

    torch.manual_seed(0)
    model = build_model(
        ModelConfig(memory="gaussians", latent_dim=4, stride=4, width=16).sized(64), ModelShapes(32, 2, 9)
    ).eval()
    batch, alone = EpisodeBatch(episodes[:1], [0]), LastFrameAlone(model)
    with torch.no_grad():
        state = alone.initial_state(1)
        for t in range(4):
            state = alone.observe(state, batch.observation([(0, t)]))
        fresh = alone.observe(alone.initial_state(1), batch.observation([(0, 3)]))
    assert all(torch.equal(a, b) for a, b in zip(state.named_tensors().values(), fresh.named_tensors().values(), strict=True))
    assert torch.equal(alone.primitives(state)[0], model.primitives(fresh)[0])  # it is read as the whole is
    assert not hasattr(LastFrameAlone(object()), "primitives")
