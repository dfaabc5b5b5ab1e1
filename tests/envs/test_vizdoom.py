"""ViZDoom through its adapter, on the real package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from liftwm_envs.adapters import make
from liftwm_envs.contract import check_env
from liftwm_envs.errors import EnvError
from tests.envs.worlds import walk, warp_errors

pytestmark = pytest.mark.worlds
LEFT, RIGHT, FORWARD = 1, 2, 3


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    pytest.importorskip("vizdoom", reason="ViZDoom is not installed")


@pytest.fixture(scope="module")
def home() -> Iterator[Any]:
    env = make("vizdoom:my_way_home", truth=True)
    yield env
    env.close()
    env.close()


def test_it_meets_the_contract_and_leaves_nothing_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = make("vizdoom:health_gathering", truth=True, image_size=64)
    assert check_env(env) == []
    env.close()
    assert os.listdir(tmp_path) == []


def test_a_seed_decides_the_frames(home: Any) -> None:
    assert check_env(home) == []
    actions = [LEFT, FORWARD, FORWARD]
    first = walk(home, 5, actions)
    walk(home, 6, actions)
    again = walk(home, 5, actions)
    for (seen, info), (same, told) in zip(first, again, strict=True):
        assert all(np.array_equal(seen[name], same[name]) for name in seen)
        assert np.array_equal(info["truth"]["depth"], told["truth"]["depth"])


def map_depth(env: Any, observation: dict[str, np.ndarray]) -> np.ndarray:
    """z-depth [H, W] of walls, floor and ceiling, by casting rays against the lines of the map: no buffer of ViZDoom's."""
    state = env.game.get_state()
    lines = [line for sector in state.sectors for line in sector.lines if line.is_blocking]
    start, end = (np.array([[getattr(k, f"x{n}"), getattr(k, f"y{n}")] for k in lines]) / 32 for n in (1, 2))
    floor, ceiling = (getattr(state.sectors[0], f"{name}_height") / 32 for name in ("floor", "ceiling"))
    pose = observation["world_from_camera"].reshape(4, 4).astype(float)
    k = observation["intrinsics"].reshape(3, 3).astype(float)
    height, width = observation["rgb"].shape[:2]
    ways = pose[:2, 2] + ((np.arange(width) + 0.5 - k[0, 2]) / k[0, 0])[:, None] * pose[:2, 0]
    along, offset = end - start, start - pose[:2, 3]
    cross = ways[:, None, 0] * along[:, 1] - ways[:, None, 1] * along[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = (offset[:, 0] * along[:, 1] - offset[:, 1] * along[:, 0]) / cross
        share = (offset[:, 0] * ways[:, None, 1] - offset[:, 1] * ways[:, None, 0]) / cross
        walls = np.where((depth > 0) & (share >= 0) & (share <= 1), depth, np.inf).min(1)
        down = (np.arange(height) + 0.5 - k[1, 2]) / k[1, 1]
        levels = np.where(down > 0, (pose[2, 3] - floor) / down, (pose[2, 3] - ceiling) / down)
    return np.minimum(walls[None], levels[:, None])


def test_depth_is_z_depth_of_the_map_to_half_a_step_of_its_buffer(home: Any) -> None:
    apart = []
    for seed in range(4):
        for seen, info in walk(home, seed, [LEFT, FORWARD, RIGHT])[-1:]:
            true, given = map_depth(home, seen), info["truth"]["depth"]
            seen_well = (info["truth"]["segmentation"] == 0) & (true > 0.6)  # its first step is all that is nearer
            apart.append((given - true)[seen_well])
    error = np.abs(np.concatenate(apart))
    assert len(error) > 6000
    assert np.median(error) < 0.08
    assert np.percentile(error, 90) < 0.13  # half a step is 0.11 m; the rest are pixels that two walls share


def test_depth_and_pose_carry_one_frame_into_another(home: Any) -> None:
    frames = walk(home, 2, [FORWARD] * 4)
    share, depth, colour = warp_errors(frames[0], frames[4])
    assert share > 0.3
    assert depth < 0.04
    assert colour < 8
    assert frames[4][0]["world_from_camera"].reshape(4, 4)[2, 3] == pytest.approx(41 / 32, abs=0.2)  # heads bob


def check_sprite(seen: dict[str, np.ndarray], info: dict[str, Any]) -> bool:
    """Whether the armour is in view; if so, its pixels are where its place is, at its depth."""
    (armour,) = (o for o in info["truth"]["objects"] if o["shape"] == "GreenArmor")
    rows, columns = np.nonzero(info["truth"]["segmentation"] == armour["id"])
    if len(columns) < 4:
        return False
    pose, k = seen["world_from_camera"].reshape(4, 4), seen["intrinsics"].reshape(3, 3)
    x, _, z = (np.array(armour["position"]) - pose[:3, 3]) @ pose[:3, :3]
    if columns.min() > 4 and columns.max() < 59:
        assert columns.mean() + 0.5 == pytest.approx(k[0, 0] * x / z + k[0, 2], abs=1.0)
    assert info["truth"]["depth"][rows, columns] == pytest.approx(z, abs=0.5)
    return True


def test_walking_the_way_to_the_armour_shows_it_and_is_success(home: Any) -> None:
    """From the start nearest to it, driven down the field of distances."""
    seed = min(range(12), key=lambda seed: home.reset(seed=seed)[1]["shortest_path_m"])
    seen, info = home.reset(seed=seed)
    way, total, shown = info["shortest_path_m"], 0.0, 0
    for _ in range(200):
        pose = seen["world_from_camera"].reshape(4, 4)
        here, heading = pose[:2, 3], np.arctan2(pose[1, 2], pose[0, 2])
        tries = heading + np.linspace(-np.pi, np.pi, 32, endpoint=False)
        ahead = [home._way.length_from(here + 0.8 * np.array([np.cos(a), np.sin(a)])) for a in tries]
        turn = tries[int(np.argmin(ahead))] - heading
        seen, reward, done, _, info = home.step(FORWARD if abs(turn) < 0.25 else LEFT if turn > 0 else RIGHT)
        total, shown = total + reward, shown + check_sprite(seen, info)
        if done:
            break
    assert info["success"] and total > 0.9 and shown > 3
    assert way > info["distance_to_goal"] == 0


def test_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="unknown scenario of vizdoom 'my_way': did you mean 'my_way_home'"):
        make("vizdoom:my_way")
    (tmp_path / "mine.cfg").write_text("doom_scenario_path = nowhere.wad\n")
    with pytest.raises(EnvError, match="vizdoom:mine cannot start: .*nowhere.wad"):
        make(f"vizdoom:{tmp_path / 'mine.cfg'}")
