"""The command end to end: a tiny untrained model and baseline on ray-cast episodes, and one navigation episode."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from embodied_liftwm.commands.evaluate import evaluate
from embodied_liftwm.commands.schema import command_line
from embodied_liftwm.config import EnvOptions, EvaluateConfig, ModelConfig, PatchesConfig, RecurrentConfig
from embodied_liftwm.data.storage import FORMAT, write_episode, write_info
from embodied_liftwm.errors import UserError
from embodied_liftwm.training.checkpoint import save_checkpoint
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model

TIMINGS = ("cost", "act_ms", "command")


def save_model(folder: Path, memory: str) -> str:
    torch.manual_seed(0)
    config = ModelConfig(
        memory=memory, patches=PatchesConfig(budget=256), latent_dim=4, stride=4, width=16, recurrent=RecurrentConfig(units=32)
    )
    save_checkpoint(folder, 1, build_model(config, ModelShapes(32, 2, 9)), {}, {})
    (folder / "metrics.csv").write_text("step,seconds,loss,psnr\n1,1,2,10\n2,2,2,11\n")
    return str(folder)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, episodes) -> EvaluateConfig:
    root = tmp_path_factory.mktemp("evaluate")
    (root / "data").mkdir()
    write_info(root / "data", {"format": FORMAT, "env": "Toy", "seed": 0, "policy": "walk", "split": "eval"})
    for index, episode in enumerate(episodes):
        write_episode(root / "data", index, episode)
    return EvaluateConfig(
        model=save_model(root / "run", "gaussians"), baseline=save_model(root / "baseline", "recurrent"),
        data=str(root / "data"), out=str(root / "out"), context=10, views_per_episode=2, navigation_episodes=1,
        bootstrap=50, workers=1, env_options=EnvOptions(image_size=32),
    )  # fmt: skip


@pytest.fixture(scope="module")
def metrics(prepared):
    return evaluate(prepared, Console(quiet=True))


def test_everything_is_written(prepared, metrics):
    out = Path(prepared.out)
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
    rows = list(csv.DictReader((out / "rows.csv").open()))
    assert {row["suite"] for row in rows} == {"views", "persistence", "navigation"}
    assert {row["model"] for row in rows if row["suite"] == "views"} == {"model", "baseline", "floor"}
    assert set(metrics["navigation"]["agents"]) <= {"planner", "planner_baseline", "random", "oracle"}
    assert set(metrics["cost"]) == {"model", "baseline"}
    assert not [path for path in out.rglob("*partial*")]


def test_seen_is_judged(prepared, metrics):
    for name in ("model", "baseline", "floor"):
        figures = metrics["views"][name]
        assert 0 <= figures["seen_ece"]["mean"] <= 1 and 0 <= figures["seen_brier"]["mean"] <= 1
        assert sum(b["share"] for b in figures["reliability"]) == pytest.approx(1.0)
    page = (Path(prepared.out) / "report" / "index.html").read_text()
    assert f'<td data-title="ECE of seen"><span>{metrics["views"]["floor"]["seen_ece"]["mean"]:.3f}' in page


def test_the_report_stands_alone(prepared, metrics):
    whole = (Path(prepared.out) / "report" / "index.html").read_text()
    page = re.sub(r'base64,[^"]+', "base64,", whole)  # letters of pictures may spell anything
    assert "http" not in page.replace("http://www.w3.org", "") and "<script" not in page and "url(" not in page
    assert page.count("data:image/png;base64,") > 20
    assert metrics["command"] in page.replace("&#39;", "'") and "rows.csv" in page
    assert page.count("data:video/mp4;base64,") == 1
    for name in ("model", "baseline"):
        assert f": {metrics['models'][name]['steps']} steps" in page
    assert "training step" in page and "share truly seen" in page
    for heading in ("Looking away, and back", "The state, from above", "Persistence", "Novel views", "Use", "Cost"):
        assert heading in page


def test_the_same_command_gives_the_same_figures(prepared, metrics):
    again = evaluate(dataclasses.replace(prepared, suite=("views", "persistence")), Console(quiet=True))
    for key in ("views", "persistence", "models", "data"):
        assert again[key] == metrics[key]


def test_the_command_line_gives_the_config_back(prepared):
    from embodied_liftwm.commands import load_config

    words = command_line("evaluate", prepared).split(" ")[2:]
    assert load_config(EvaluateConfig, None, words) == prepared


def test_training_scenes_are_refused(prepared, episodes, tmp_path):
    write_info(tmp_path, {"format": FORMAT, "env": "Toy", "seed": 0, "policy": "walk", "split": "train"})
    write_episode(tmp_path, 0, dataclasses.replace(episodes[0], meta={"env": "liftwm/Revisit-S-v0", "seed": 3}))
    with pytest.raises(UserError, match=r"training scenes \(seed 3\).*split=eval"):
        evaluate(dataclasses.replace(prepared, data=str(tmp_path)), Console(quiet=True))


def test_another_image_size_is_refused_before_any_work(prepared):
    with pytest.raises(UserError, match="env=Revisit-S has images of 64x64, model .* is for 32x32"):
        evaluate(dataclasses.replace(prepared, env_options=EnvOptions()), Console(quiet=True))


def test_a_dataset_without_truth_is_refused(prepared, episodes, tmp_path):
    write_info(tmp_path, {"format": FORMAT, "env": "Toy", "seed": 0, "policy": "walk", "split": "eval"})
    write_episode(tmp_path, 0, dataclasses.replace(episodes[0], truth=None))
    with pytest.raises(UserError, match="episode 0 has no truth"):
        evaluate(dataclasses.replace(prepared, data=str(tmp_path)), Console(quiet=True))
