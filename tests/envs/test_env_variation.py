"""Randomised rooms: off they are the usual ones to the bit, on they follow their ranges, and the oracle still solves them."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from embodied_liftwm.config import CollectConfig, EnvOptions
from embodied_liftwm.config.checks import Bounds
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.errors import UserError
from liftwm_agents.collection.collect import collect
from liftwm_envs import EnvError
from liftwm_envs.cameras import back_project
from liftwm_envs.env import RoomEnv
from liftwm_envs.rooms import photographs
from liftwm_envs.rooms.textures import MAX_STRUCTURE_SATURATION
from liftwm_envs.rooms.variation import RANGES, draw_variation
from liftwm_envs.tasks.policies import OraclePolicy

USUAL = {
    "fov_deg": 80.0, "camera_height_m": 0.75, "camera_pitch_deg": 0.0, "light": 1.0, "light_contrast": 1.0, "light_colour": 0.0,
    "saturation": MAX_STRUCTURE_SATURATION, "texture_scale": 1.0, "room_scale": 1.0,
}  # fmt: skip


def first_frame(**options) -> tuple[RoomEnv, dict[str, np.ndarray]]:
    env = RoomEnv(image_size=32, truth=True, **options)
    return env, env.reset(seed=3)[0]


def test_usual_values_are_the_usual_world_to_the_bit() -> None:
    assert USUAL.keys() == RANGES.keys()
    for options in ({}, {"embodiment": "drone", "camera_height_m": 1.0}):
        ranges = {name: (value,) for name, value in (USUAL | options).items() if name != "embodiment"}
        body = {name: value for name, value in options.items() if name == "embodiment"}
        frames = [first_frame(**body, **given)[1] for given in ({}, ranges)]
        assert all(np.array_equal(frames[0][name], frames[1][name]) for name in frames[0])


def test_what_is_drawn_is_in_its_range_and_the_same_whichever_others_are_on() -> None:
    ranges = {name: known.randomise for name, known in RANGES.items()}
    drawn = [draw_variation(seed, ranges) for seed in range(200)]
    for name, (low, high) in ranges.items():
        values = np.array([getattr(one, name) for one in drawn])
        assert low <= values.min() < low + 0.1 * (high - low) and high >= values.max() > high - 0.1 * (high - low), name
        assert getattr(draw_variation(7, {name: (low, high)}), name) == getattr(drawn[7], name)
    assert draw_variation(7, {}) == draw_variation(8, {})


@pytest.mark.parametrize("embodiment", ["wheels", "drone"])
def test_depth_and_camera_agree_with_the_floor(embodiment: str) -> None:
    """Seen by a camera that is low, looks down and sees wide, the floor is at height 0 where depth says."""
    env, obs = first_frame(embodiment=embodiment, fov_deg=100, camera_height_m=0.6, camera_pitch_deg=20)
    pose, intrinsics = obs["world_from_camera"].reshape(4, 4), obs["intrinsics"].reshape(3, 3)
    assert pose[2, 3] == pytest.approx(0.6, abs=1e-3)
    assert math.degrees(math.asin(-pose[2, 2])) == pytest.approx(20, abs=0.1)
    assert math.degrees(2 * math.atan(16 / intrinsics[1, 1])) == pytest.approx(100, abs=1e-3)
    heights = back_project(env.sim.render_rgb_depth()[1], intrinsics, pose)[-1, :, 2]
    assert np.median(np.abs(heights)) < 0.01
    for _ in range(4):  # the driver keeps the height
        obs = env.step(OraclePolicy(env).driver.action(1.0, 0.0))[0]
    assert obs["world_from_camera"].reshape(4, 4)[2, 3] == pytest.approx(0.6, abs=0.02)
    env.close()


def test_light_patterns_and_size_change_what_is_seen() -> None:
    def mean(**options) -> float:
        return float(first_frame(**options)[1]["rgb"].mean())

    usual, (env, obs) = mean(), first_frame()
    assert mean(light=0.5) < 0.6 * usual and mean(light_colour=0.5) < 0.9 * usual
    assert mean(light_contrast=3.0) == pytest.approx(usual, rel=0.25)
    for options in ({"light_contrast": 3.0}, {"saturation": 0.8}, {"texture_scale": 2.0}):
        assert not np.array_equal(first_frame(**options)[1]["rgb"], obs["rgb"]), options
    sides = [np.subtract(e.scene.bounds[2:], e.scene.bounds[:2]) for e in (env, first_frame(room_scale=1.5)[0])]
    assert (sides[1] > 1.3 * sides[0]).all()


def test_the_oracle_solves_randomised_rooms() -> None:
    env = RoomEnv(image_size=32, randomise=True)
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        policy, over = OraclePolicy(env), False
        while not over:
            obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
            over = terminated or truncated
        assert info["success"] and info["solvable_by_memory"], seed
    env.close()


@pytest.mark.parametrize("env_id", ["Occlusion-M", "MovingOcclusion-L", "ShellGame-L", "Search-S"])
def test_every_kind_of_scene_is_found_in_the_smallest_and_the_largest_rooms(env_id: str) -> None:
    for scale in RANGES["room_scale"].allowed:
        env = gymnasium.make(f"liftwm/{env_id}-v0", image_size=16, room_scale=scale, disable_env_checker=True)
        assert env.reset(seed=2)[0]["rgb"].shape == (16, 16, 3)
        env.close()


def test_bad_ranges_are_refused_in_a_line() -> None:
    for options, message in (
        ({"fov_deg": (110, 60)}, r"fov_deg=\(110, 60\): expected a number or a range, \(least, most\), in \[20, 140\]"),
        ({"light": (1, 2, 3)}, "light="),
        ({"room_scale": 3.0}, "room_scale=3.0"),
        ({"fov": 3.0}, "fov=: no such option; ranges are fov_deg, "),
    ):
        with pytest.raises(EnvError, match=message):
            RoomEnv(**options)
    with pytest.raises(UserError, match=r"env_options.fov_deg=\[110.0, 60.0\]: expected a number, or the least and the most"):
        EnvOptions(fov_deg=(110.0, 60.0))


def test_the_command_line_randomises_and_allows_the_same() -> None:
    fields, randomised = EnvOptions.__dataclass_fields__, EnvOptions(randomise=True, light=(0.5,)).keywords()
    assert {name: randomised[name] for name in RANGES} == {n: [*r.randomise] for n, r in RANGES.items()} | {"light": [0.5]}
    assert {name: fields[name].metadata["bounds"] for name in RANGES} == {n: Bounds(*r.allowed) for n, r in RANGES.items()}


def test_a_dataset_keeps_ranges_and_what_was_drawn(tmp_path: Path) -> None:
    options = EnvOptions(image_size=32, fov_deg=(60.0, 110.0), light=(0.8,))
    settings = CollectConfig(env_options=options, episodes=2, steps=3, workers=1, out=str(tmp_path / "d"))
    collect(settings)
    told = json.loads((tmp_path / "d" / "dataset.json").read_text())["env_options"]
    assert told["fov_deg"] == [60.0, 110.0] and told["light"] == [0.8] and "room_scale" not in told and "randomise" not in told
    reader, metas = TrainingReader(tmp_path / "d"), [episode.meta for episode in EvaluationReader(tmp_path / "d")]
    for episode, meta in enumerate(metas):
        assert meta["variation"].keys() == {"fov_deg", "light"} and meta["variation"]["light"] == 0.8
        focal = 16 / math.tan(math.radians(meta["variation"]["fov_deg"] / 2))
        assert reader.read(episode, "intrinsics")[0, 0] == pytest.approx(focal)
    assert metas[0]["variation"]["fov_deg"] != metas[1]["variation"]["fov_deg"]
    collect(settings)  # the same settings go on
    with pytest.raises(
        UserError, match=r"was collected with env_options.fov_deg=\[60.0, 110.0\], not env_options.fov_deg=None"
    ):
        collect(
            CollectConfig(env_options=EnvOptions(image_size=32, light=(0.8,)), episodes=3, steps=3, out=str(tmp_path / "d"))
        )


@pytest.mark.worlds
def test_photographs_cover_walls_floors_and_ceilings() -> None:
    if importlib.util.find_spec("miniworld") is None:
        pytest.skip("MiniWorld is not installed")
    names = {name for kind in photographs.PHOTOGRAPHS.values() for name in kind}
    assert all((photographs.folder() / f"{name}.png").is_file() for name in names)
    picture = photographs.photograph("brick_wall_1")
    assert picture.shape == (256, 256, 3) and picture[..., 0].mean() > 1.2 * picture[..., 2].mean()
    env, obs = first_frame(texture="photographs")
    assert np.abs(obs["rgb"].astype(int) - first_frame()[1]["rgb"]).mean() > 10
    env.close()


def test_photographs_that_are_not_there_are_missed_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    photographs.folder.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvError, match="texture=photographs: they come with MiniWorld, which is not installed: pip install"):
        RoomEnv(texture="photographs")
