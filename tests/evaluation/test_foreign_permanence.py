"""The permanence benchmark in a world that is none of ours: what it tells is asked, what it does not tell is named."""

import csv
import dataclasses
import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from embodied_liftwm import cli
from embodied_liftwm.commands.evaluate import evaluate
from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions, EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.permanence.making import check_manifest, make_manifest
from embodied_liftwm.evaluation.permanence.manifest import Tour, load_manifest, write_manifest

PAGE = Path(__file__).resolve().parents[2] / "docs/evaluate_your_model.md"
WORLD = "tests.evaluation.ball_room:"
SEED = EVAL_SEED_OFFSET + 4321


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> EvaluateConfig:
    root = tmp_path_factory.mktemp("foreign")
    (root / "album_frame.py").write_text(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0])
    return EvaluateConfig(
        model="album_frame:make_model", suite=("permanence",), manifests=str(root / "known"), probe_episodes=3,
        bootstrap=20, workers=1, out=str(root / "out"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def metrics(prepared):
    root = Path(prepared.manifests).parent
    words = [f"env={WORLD}make_env", "episodes=2", "tour_steps=24", "max_steps=12", f"first_seed={SEED}", "out=known"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.syspath_prepend(str(root))
        assert cli.main(["manifest", "make", *words]) == 0
        yield evaluate(prepared, Console(quiet=True))


def test_a_manifest_says_who_walked_and_what_the_world_tells(prepared, metrics):
    manifest = load_manifest(f"{WORLD}make_env", Path(prepared.manifests))
    assert manifest.tour == Tour("wander", 24, 12) and not manifest.ours
    assert set(manifest.knows) == {"depth", "world_from_camera", "segmentation", "object_pose", "success", "goal"}
    check_manifest(manifest)
    changed = dataclasses.replace(manifest, tour=Tour("wander", 23, 12))
    with pytest.raises(UserError, match=f"seed {SEED}: its scene and tour hash to"):
        check_manifest(changed)


def test_all_that_it_tells_is_asked(prepared, metrics):
    (found,) = metrics["tasks"].values()
    assert set(metrics["tasks"]) == {f"{WORLD}make_env"} and set(found) == {"readings"}
    readings = found["readings"]
    assert readings["act"]["oracle"]["success"]["mean"] == 1.0 and set(readings["act"]) == {"model", "random", "oracle"}
    assert readings["probe"]["model"]["error_m"]["count"] > 0 and readings["render"]["model"]["score"]["count"] > 0
    rows = list(csv.DictReader((Path(prepared.out) / "rows.csv").open()))
    assert {row["reading"] for row in rows} >= {"probe", "render", "act"}
    out = {entry["name"].rpartition(": ")[2]: entry["reason"] for entry in metrics["left_out"]}
    assert set(out) == {"controls", "violation of expectation", "objects removed or moved while hidden", "SPL", "SoftSPL"}
    page = html.unescape((Path(prepared.out) / "report/index.html").read_text())
    assert "<th>SPL</th>" not in page and all(name in page and reason in page for name, reason in out.items())
    assert json.loads((Path(prepared.out) / "metrics.json").read_text())["left_out"] == metrics["left_out"]


@pytest.mark.usefixtures("metrics")
def test_a_world_that_tells_less_is_asked_less(prepared, tmp_path, capsys):
    made = make_manifest(f"{WORLD}make_pictures", EnvOptions(), 1, SEED, Tour("wander", 24, 6))
    write_manifest(made, tmp_path / "some")
    config = dataclasses.replace(prepared, manifests=str(tmp_path / "some"), out=str(tmp_path / "out"))
    found = evaluate(config, Console(width=300))
    (readings,) = found["tasks"].values()
    assert readings["readings"]["render"]["model"]["score"]["count"] > 0
    assert readings["readings"]["probe"] == readings["readings"]["act"] == {}
    out = {entry["name"].rpartition(": ")[2]: entry["reason"] for entry in found["left_out"]}
    assert out["probe"].startswith("needs objects' true places, which") and out["act"].startswith(
        'needs info["success"], which'
    )
    said = capsys.readouterr().out
    assert "probe: needs objects' true places" in said and "Probe: where" not in said and "Act:" not in said


@pytest.mark.usefixtures("metrics")
def test_a_world_in_which_nothing_was_hidden_says_so(prepared, tmp_path):
    made = make_manifest(f"{WORLD}make_env", EnvOptions(), 1, SEED, Tour("wander", 1, 12))
    write_manifest(dataclasses.replace(made, knows=tuple({*made.knows} - {"object_pose"})), tmp_path)
    found = evaluate(dataclasses.replace(prepared, manifests=str(tmp_path), out=str(tmp_path / "out")), Console(quiet=True))
    (why,) = [entry["reason"] for entry in found["left_out"] if entry["name"].endswith(": render")]
    assert why == "nothing that was seen is out of view in these episodes"


@pytest.mark.usefixtures("metrics")
def test_a_world_that_tells_nothing_is_refused_with_what_it_lacks(prepared, tmp_path):
    made = make_manifest(f"{WORLD}make_silent", EnvOptions(), 1, SEED, Tour("wander", 4, 6))
    assert made.knows == ("goal",)
    write_manifest(made, tmp_path)
    with pytest.raises(UserError, match="probe: needs true segmentation and objects' true places.*act: needs info"):
        evaluate(dataclasses.replace(prepared, manifests=str(tmp_path), out=str(tmp_path / "out")), Console(quiet=True))


def test_the_same_world_is_toured_alike_by_agents(metrics):
    manifest = make_manifest(f"{WORLD}make_env", EnvOptions(), 1, SEED, Tour("wander", 24, 12))
    config = manifest.setting(EvaluateConfig())
    from embodied_liftwm.evaluation.navigation.arena import make_env

    env, guide = make_env(config), manifest.guide()
    guided, tour = guide.record(SEED), env.reset(seed=SEED)[1]["tour"]
    env.close()
    guide.close()
    assert np.array_equal(tour["rgb"], guided.episode.rgb[: guided.call + 1]) and guided.call == 25
    assert np.array_equal(tour["action"][1:], guided.episode.action[: guided.call])
    assert len(guided.episode.rgb) > guided.call + 1, "the way that the world itself knows"
