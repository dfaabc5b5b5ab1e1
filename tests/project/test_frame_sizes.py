"""Frames need not be square: they are collected, trained on, judged, planned with and generated, of any environment."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import embodied_liftwm
from embodied_liftwm import cli
from embodied_liftwm.config import (
    CollectConfig,
    GaussiansConfig,
    LatentBoundedConfig,
    ModelConfig,
    PatchesConfig,
    RecurrentConfig,
    TrainConfig,
)
from embodied_liftwm.data import TrainingReader
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.training.trainer import Trainer
from liftwm_agents.collection.collect import collect

SMALL = ("model.width=8", "model.patches.budget=64", "model.stride=4", "model.planes=6")


def trained(data: Path, run: Path, **model) -> TrainConfig:
    """Two steps, the second of which renders."""
    sizes = {"patches": PatchesConfig(64), "gaussians": GaussiansConfig(64), "recurrent": RecurrentConfig(16)}
    small = ModelConfig(**({"width": 8, "stride": 4, "planes": 6} | sizes | model))
    config = TrainConfig(
        data=str(data), run=str(run), model=small, steps=2, batch_size=2, context=3, targets=1, sources=2, span=4, threads=1
    )
    Trainer(config).fit()
    return config


def observed(data: Path, run: Path) -> tuple[embodied_liftwm.protocols.WorldModel, object, Camera]:
    """The model after the first frames of the first episode, and the camera of the last of them."""
    model, reader = embodied_liftwm.load(str(run)), TrainingReader(data)
    found = reader.window(0, np.arange(4))
    rgb = torch.tensor(found["rgb"]).movedim(-1, 1) / 255.0
    K, poses = torch.tensor(reader.read(0, "intrinsics"))[None], torch.tensor(found["world_from_camera"])
    state = model.initial_state(1)
    for t in range(4):
        camera = Camera(K, poses[t : t + 1], *reader.image_size)
        nothing = torch.zeros(1, reader.action_dim), torch.tensor([t == 0]), torch.zeros(1, reader.goal_dim)
        state = model.observe(state, Observation(rgb[t : t + 1], camera, *nothing))
    return model, state, camera


def test_frames_of_our_environments_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    size = "env_options.image_size=48x64"
    assert cli.main(["collect", size, "episodes=1", "steps=12", "workers=1", "out=train"]) == 0
    assert cli.main(["collect", size, "split=eval", "policy=tour", "episodes=1", "steps=30", "workers=1", "out=eval"]) == 0
    assert TrainingReader("train").image_size == (48, 64)
    windows = ("batch_size=1", "context=3", "targets=1", "span=4", "threads=1")
    assert cli.main(["train", "data=train", "run=run", "steps=2", *windows, *SMALL]) == 0
    judged = ("context=8", "views_per_episode=2", "navigation_episodes=1", "bootstrap=5", "workers=1")
    assert cli.main(["evaluate", "model=run", "data=eval", "out=judged", size, *judged]) == 0
    metrics = json.loads(Path("judged/metrics.json").read_text())
    assert metrics["data"]["image_size"] == "48x64" and 0 < metrics["views"]["model"]["psnr_seen"]["mean"] < 60
    rows = csv.DictReader(Path("judged/rows.csv").read_text().splitlines())
    assert {row["suite"] for row in rows} == {"views", "surprise", "persistence", "navigation"}
    assert cli.main(["generate", "model=run", "data=eval", "path=yaw-40", "steps=1", "out=generated", "bootstrap=5"]) == 0
    assert Path("generated/video.mp4").is_file() and Image.open("generated/picture.png").size[0] > 64
    model, state, camera = observed(Path("train"), Path("run"))
    assert model.render(state, camera).rgb.shape == (1, 3, 48, 64) and model.ego_camera(state).height == 48


def test_tall_frames_of_another_environment_in_python(tmp_path: Path) -> None:
    name = "tests.agents.toy_camera_env:make_tall"
    collect(CollectConfig(env=name, episodes=2, steps=8, policy="random", workers=1, out=str(tmp_path / "d")))
    trained(tmp_path / "d", tmp_path / "run")
    model, state, camera = observed(tmp_path / "d", tmp_path / "run")
    view = model.render(state, camera)
    assert view.rgb.shape == (1, 3, 128, 96) and bool(view.rgb.isfinite().all())


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of 32 x 48 pixels."""
    out = tmp_path_factory.mktemp("wide") / "data"
    name = "tests.agents.toy_camera_env:make_wide"
    collect(CollectConfig(env=name, episodes=2, steps=8, policy="random", workers=1, out=str(out)))
    return out


@pytest.mark.parametrize(
    "memory", ["patches", "gaussians", "latent_append", "latent_bounded", "recurrent", "rgb_cloud", "context"]
)
def test_every_memory_learns_from_them(wide: Path, tmp_path: Path, memory: str) -> None:
    trained(wide, tmp_path / "run", memory=memory, stride=2, latent_bounded=LatentBoundedConfig(2**16))
    model, state, camera = observed(wide, tmp_path / "run")
    view = model.render(state, camera)
    assert view.depth.shape == (1, 32, 48) and bool(view.rgb.isfinite().all())
    step, _ = model.generate(state, camera)  # type: ignore[attr-defined]
    assert bool(model.summarize(step).isfinite().all())
