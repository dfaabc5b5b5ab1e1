"""The memory of docs/your_memory.md: it trains, is judged and planned on; and what is no memory is refused in one line."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embodied_liftwm import load
from embodied_liftwm.config import ModelConfig, PlannerConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.results_table import judge
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.world_model.base import ModelShapes
from embodied_liftwm.world_model.build import build_model
from liftwm_agents.planning.planner import PlannerPolicy
from tests.agents.toy_env import ToyRoom
from tests.toy_room import write_dataset
from tests.training.small import SMALL, config
from tests.world_model.test_models import observations, same, watch

PAGE = Path(__file__).resolve().parents[2] / "docs/your_memory.md"
NAMED = replace(SMALL, memory="last_frames:LastFrames")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "last_frames", raising=False)
    (tmp_path / "last_frames.py").write_text(block())


def block() -> str:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


def test_it_is_short() -> None:
    body = block()[block().index("KEPT") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 40


def test_it_trains_is_judged_and_planned_on(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    rows: list[dict[str, float]] = []
    Trainer(config(data, tmp_path / "run", model=NAMED, steps=3, geometry_first=0.0)).fit(rows.append)
    assert len(rows) == 3 and all(row["psnr"] > 5.0 for row in rows)
    model = load(str(tmp_path / "run"))
    found = judge(model, "last frames", "last frames", list(EvaluationReader(data)), 4, 2, "cpu")
    assert len(found.views) == 6 and all(row.psnr > 5.0 for row in found.views)
    env = ToyRoom(32, max_steps=4)
    obs, info = env.reset(seed=0)
    policy = PlannerPolicy(model, PlannerConfig(num_samples=16, horizon=4, panorama_views=4))
    policy.begin(info["tour"])
    for _ in range(4):
        obs, *_ = env.step(policy.act(obs, info))


def test_it_remembers_the_last_frames_alone() -> None:
    torch.manual_seed(0)
    model = build_model(NAMED, ModelShapes(32, 2, 9)).eval().requires_grad_(False)
    seen = observations()
    state = watch(model, seen)
    error = (model.render(state, seen[-1].camera).rgb - seen[-1].rgb).square().mean()
    assert float(error) < 0.5 * float((seen[-1].rgb - seen[-1].rgb.mean()).square().mean())
    assert bool((state.world.there[:, :4] == 1).all()) and state.world.rgb[0, 0].movedim(-1, 0).equal(seen[-1].rgb[0])
    assert model.memory_bytes(state).charged == state.world.nbytes()
    assert len(model.primitives(state)[0]) == 4 * 32 * 32
    state.save("state.safetensors")
    assert same(state, model.initial_state(1).load("state.safetensors"))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("last_frames:LastFrame", "has no 'LastFrame': did you mean 'LastFrames'?"),
        ("lost_frames:LastFrames", "no module named 'lost_frames'"),
        ("last_frames:Frames", "Frames.__init__() missing 1 required positional argument"),
        ("last_frames:block", "lacks empty, write, read"),
        ("last_frames:upside_down", "reads is 'voxels', expected one of pixels, cells, picture"),
        ("patchs", "model.memory=patchs: did you mean patches?"),
        ("voxels", "expected patches, gaussians, .* or my_package:MyMemory"),
    ],
)
def test_what_is_no_memory_is_refused(name: str, line: str, tmp_path: Path) -> None:
    more = """
def block(config, shapes):
    return object()
def upside_down(config, shapes):
    made = LastFrames(config, shapes)
    made.reads = "voxels"
    return made
"""
    (tmp_path / "last_frames.py").write_text(block() + more)
    with pytest.raises(UserError, match=re.escape(line) if "*" not in line else line):
        build_model(ModelConfig(memory=name), ModelShapes(32, 2, 9))
