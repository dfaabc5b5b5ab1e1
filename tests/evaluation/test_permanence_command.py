"""The permanence benchmark end to end, on the very model of docs/evaluate_your_model.md."""

import csv
import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

from embodied_liftwm.commands.evaluate import evaluate
from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions, EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.manifest_make import make_manifest, write_manifest
from embodied_liftwm.evaluation.readings import OUTCOMES

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
        model="nearest_frame:make_model", suite="permanence", tasks=("Revisit-S",), manifests=str(root / "manifests"),
        permanence_episodes=1, parts=("readings",), probe_episodes=3, bootstrap=20, workers=1, out=str(root / "out"),
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
    ],
)
def test_nonsense_is_named_with_its_place(prepared, name, message):
    with pytest.raises(UserError, match=message) as caught:
        evaluate(dataclasses.replace(prepared, model=f"broken_frame:{name}"), Console(quiet=True))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"parts": ("reading",)}, "parts=reading: the permanence benchmark has no such suite, it has readings"),
        ({"tasks": ("Revisit-S", "Search-S")}, "task Search-S has no manifest in .*; these have: Revisit-S"),
        ({"model": "tests.plain_model:make_model"}, "manifest of Revisit-S has images of 64x64, model .* is for 32x32"),
    ],
)
def test_mistakes_are_named_before_any_work(prepared, changed, message):
    with pytest.raises(UserError, match=message):
        evaluate(dataclasses.replace(prepared, **changed), Console(quiet=True))


def test_an_unknown_suite_is_named():
    with pytest.raises(UserError, match="suite=permanenc: the one named set is permanence"):
        EvaluateConfig(suite="permanenc")


def test_a_changed_byte_ends_the_run(prepared, tmp_path):
    shutil.copytree(prepared.manifests, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "permanence-Revisit-S.json"
    path.write_text(path.read_text().replace(str(SEED + 1), str(SEED + 7), 1))
    with pytest.raises(UserError, match="entry 1 of 'episodes'"):
        evaluate(dataclasses.replace(prepared, manifests=str(tmp_path)), Console(quiet=True))


def test_the_last_frame_alone_forgets(episodes):
    from embodied_liftwm.config import ModelConfig
    from embodied_liftwm.evaluation.contestants import LastFrameAlone
    from embodied_liftwm.evaluation.episodes import EpisodeBatch
    from embodied_liftwm.world_model.base import ModelShapes
    from embodied_liftwm.world_model.build import build_model

    torch.manual_seed(0)
    model = build_model(
        ModelConfig(memory="gaussians", budget=64, latent_dim=4, stride=4, width=16), ModelShapes(32, 2, 9)
    ).eval()
    batch, alone = EpisodeBatch(episodes[:1], [0]), LastFrameAlone(model)
    with torch.no_grad():
        state = alone.initial_state(1)
        for t in range(4):
            state = alone.observe(state, batch.observation([(0, t)]))
        fresh = alone.observe(alone.initial_state(1), batch.observation([(0, 3)]))
    assert all(torch.equal(a, b) for a, b in zip(state.named_tensors().values(), fresh.named_tensors().values(), strict=True))
