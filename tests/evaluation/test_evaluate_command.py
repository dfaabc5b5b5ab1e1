"""The command end to end: a tiny untrained model and baseline on ray-cast episodes, and one navigation episode."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from embodied_liftwm.commands.evaluate import evaluate
from embodied_liftwm.commands.schema import command_line
from embodied_liftwm.config import EnvOptions, EvaluateConfig, ModelConfig, PatchesConfig, RecurrentConfig
from embodied_liftwm.data.episode import Truth
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
    assert {row["suite"] for row in rows} == {"views", "surprise", "persistence", "navigation"}
    assert {row["model"] for row in rows if row["suite"] == "views"} == {"model", "baseline", "floor", "frozen_frame"}
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


def with_truth(prepared, episodes, folder: Path, *known: str) -> EvaluateConfig:
    """The same episodes with this part of their truth; no navigation."""
    folder.mkdir()
    write_info(folder, {"format": FORMAT, "env": "Toy", "seed": 0, "policy": "walk", "split": "eval"})
    for index, episode in enumerate(episodes):
        named = {name: getattr(episode.truth, name) for name in known}
        write_episode(folder, index, dataclasses.replace(episode, truth=Truth(**named) if known else None))
    out = str(folder.parent / f"{folder.name}-out")
    return dataclasses.replace(prepared, baseline="", data=str(folder), out=out, suite=("views", "persistence"))


def test_a_dataset_without_truth_gets_a_report(prepared, metrics, episodes, tmp_path, capsys):
    config = with_truth(prepared, episodes, tmp_path / "bare")
    found = evaluate(config, Console(width=200))
    for name in ("model", "floor", "frozen_frame"):
        assert set(found["views"][name]) == {"psnr", "ssim", "depth_share"}
        assert found["views"][name]["psnr"] == metrics["views"][name]["psnr"], "the same pixels, whoever knows their depth"
    assert "persistence" not in found and found["cost"]["model"]["frames"] == 30
    said, page = capsys.readouterr().out, (Path(config.out) / "report" / "index.html").read_text()
    for entry in found["left_out"]:
        assert f"left out: {entry['name']}: {entry['reason']}" in said and entry["name"] in page and entry["reason"] in page
    assert [entry["reason"].partition(", which")[0] for entry in found["left_out"]] == [
        "needs true depth and true poses", "needs true depth", "needs true depth and true segmentation",
    ]  # fmt: skip
    assert "seen px" not in page + said and "nan" not in page and "Novel views</h2>" in page
    assert "frames to come</h3>" in page and page.count("data:image/png;base64,") == 3 * 6  # true, shown, error
    header = (Path(config.out) / "rows.csv").read_text().splitlines()[0]
    assert header == "suite,model,episode,frame,psnr,ssim,depth_share,other,surprise,surprise_swapped,right"
    assert found["surprise"]["model"] == metrics["surprise"]["model"] and "Surprise</h2>" in page


def test_a_part_of_the_truth_gives_its_figures(prepared, metrics, episodes, tmp_path):
    unplaced = evaluate(with_truth(prepared, episodes, tmp_path / "depth", "depth"), Console(quiet=True))
    mine, whole = unplaced["views"]["model"], metrics["views"]["model"]
    assert mine["depth_rmse_m"] == whole["depth_rmse_m"] and "depth_rmse_seen_m" not in mine and "seen_ece" not in mine
    assert [entry["name"].partition(" ")[0] for entry in unplaced["left_out"]] == ["PSNR", "persistence,"]
    placed = evaluate(with_truth(prepared, episodes, tmp_path / "placed", "depth", "world_from_camera"), Console(quiet=True))
    assert placed["views"]["model"] == whole and [entry["name"][:11] for entry in placed["left_out"]] == ["persistence"]
    seen = ("depth", "segmentation", "visible_pixels", "object_id", "object_colour", "object_shape")
    kept = evaluate(with_truth(prepared, episodes, tmp_path / "seen", *seen), Console(quiet=True))
    assert kept["persistence"]["model"] == metrics["persistence"]["model"]
    assert [entry["name"][:4] for entry in kept["left_out"]] == ["PSNR"]


def test_what_needs_truth_alone_is_refused_without(prepared, episodes, tmp_path):
    config = with_truth(prepared, episodes, tmp_path / "bare")
    with pytest.raises(UserError, match="suite=persistence: needs true depth and true segmentation, which data=.* lacks"):
        evaluate(dataclasses.replace(config, suite=("persistence",)), Console(quiet=True))


def test_posed_video_is_judged_without_navigation(prepared, episodes, tmp_path):
    folder = tmp_path / "video"
    folder.mkdir()
    write_info(folder, {"format": FORMAT, "env": "Video"})
    first, bare = episodes[0], np.zeros((30, 0), np.float32)
    turns = np.zeros((29, 6), np.float32)
    write_episode(folder, 0, dataclasses.replace(first, truth=None, action=turns, goal=bare))
    torch.manual_seed(0)
    model = build_model(ModelConfig(memory="recurrent", recurrent=RecurrentConfig(units=32)), ModelShapes(32, 6, 0))
    save_checkpoint(tmp_path / "run", 1, model, {}, {})
    asked = dataclasses.replace(prepared, model=str(tmp_path / "run"), baseline="", data=str(folder), out=str(tmp_path / "out"))
    found = evaluate(asked, Console(quiet=True))
    assert "navigation" not in found and found["views"]["model"]["psnr"]["mean"] > 0
    assert "not the same task or body" in found["left_out"][-1]["reason"] and found["left_out"][-1]["name"] == "navigation"
    stranger = build_model(ModelConfig(memory="recurrent", recurrent=RecurrentConfig(units=32)), ModelShapes(32, 2, 9))
    save_checkpoint(tmp_path / "stranger", 1, stranger, {}, {})
    asked = dataclasses.replace(asked, model=str(tmp_path / "stranger"), out=str(tmp_path / "seen"))
    found = evaluate(asked, Console(quiet=True))
    assert found["views"]["model"]["psnr"]["mean"] > 0 and "actions and goals (model)" in [e["name"] for e in found["left_out"]]
