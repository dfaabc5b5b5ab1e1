"""Gymnasium's contract: checkers, determinism, actions, options, import weight."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.vec_env import DummyVecEnv

from liftwm_envs import ENV_IDS, EnvError

VARIANTS = [(e, a) for e in ("wheels", "drone") for a in ("continuous", "discrete")]
CHECKED = [
    (env_id, *variant)
    for env_id in ENV_IDS
    for variant in (VARIANTS if "-S-" in env_id else [("wheels", "continuous"), ("drone", "discrete")])
]


def make(env_id: str = "liftwm/Revisit-S-v0", **kwargs: Any) -> gymnasium.Env:
    return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


def test_every_task_comes_in_every_size() -> None:
    tasks = ("Revisit", "Occlusion", "MovingOcclusion", "ShellGame", "Search")
    assert set(ENV_IDS) == {f"liftwm/{task}-{size}-v0" for task in tasks for size in "SML"} <= set(gymnasium.registry)


@pytest.mark.parametrize(("env_id", "embodiment", "action"), CHECKED)
def test_checkers_are_clean(env_id: str, embodiment: str, action: str) -> None:
    env = make(env_id, embodiment=embodiment, action=action, render_mode="rgb_array").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check(env)
        sb3_check(env)
    env.close()


HASH = """
import hashlib, sys, gymnasium, liftwm_envs
import numpy as np
env = gymnasium.make(sys.argv[1], truth=True, odometry_noise=0.1, disable_env_checker=True)
digest = hashlib.sha256()
obs, info = env.reset(seed=2**30 + 5)
rng = np.random.default_rng(0)
for _ in range(40):
    obs, *_, info = env.step(rng.uniform(-1, 1, 2).astype(np.float32))
    for part in (*obs.values(), *info["truth"].values()):
        digest.update(np.ascontiguousarray(part).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.parametrize("env_id", [f"liftwm/{name}-v0" for name in ("Occlusion-S", "MovingOcclusion-S", "ShellGame-L")])
def test_same_seed_gives_the_same_frames_in_another_process(env_id: str) -> None:
    command = [sys.executable, "-c", HASH, env_id]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert len(runs[0].strip()) == 64
    assert runs[0] == runs[1]


def test_other_seeds_give_other_scenes_and_reset_without_seed_draws_anew() -> None:
    env = make()
    frames = [env.reset(seed=1)[0]["rgb"], env.reset(seed=2)[0]["rgb"], env.reset()[0]["rgb"], env.reset()[0]["rgb"]]
    digests = {hashlib.sha256(frame.tobytes()).hexdigest() for frame in frames}
    assert len(digests) == 4
    env.reset(seed=2**30 + 1)
    env.reset()
    assert env.unwrapped.scene.seed >= 2**30  # evaluation stays on evaluation scenes
    env.close()


def test_step_never_changes_frames_handed_out() -> None:
    env = make(truth=True)
    obs, info = env.reset(seed=0)
    kept = {key: value.copy() for key, value in obs.items()}
    depth = info["truth"]["depth"].copy()
    for _ in range(3):
        env.step(np.array([1.0, 1.0], np.float32))
    assert all(np.array_equal(obs[key], kept[key]) for key in obs)
    assert np.array_equal(info["truth"]["depth"], depth)
    env.close()


@pytest.mark.parametrize("bad", [[np.nan, 0.0], [1.5, 0.0], [0.0], [0.0, np.inf], [[0.0, 0.0]], "left", {}, None])
def test_bad_continuous_actions_are_refused(bad: object) -> None:
    env = make()
    env.reset(seed=0)
    with pytest.raises(EnvError, match="action"):
        env.unwrapped.step(np.array(bad, np.float32) if isinstance(bad, list) else bad)
    env.close()


@pytest.mark.parametrize("bad", [6, -1, 1.5, "left"])
def test_bad_discrete_actions_are_refused(bad: object) -> None:
    env = make(action="discrete")
    env.reset(seed=0)
    with pytest.raises(EnvError, match=r"\[0, 5\]"):
        env.unwrapped.step(bad)
    env.close()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"embodiment": "boat"},
        {"action": "text"},
        {"image_size": 4},
        {"image_size": (64, 8)},
        {"image_size": "48x64x2"},
        {"image_size": 64.5},
        {"texture": "none"},
        {"odometry_noise": -1.0},
        {"odometry_noise": float("nan")},
        {"reward": "dense"},
        {"max_steps": 0},
        {"distractors": "many"},
    ],
)
def test_bad_options_are_refused_by_name(kwargs: dict[str, Any]) -> None:
    with pytest.raises(EnvError, match=next(iter(kwargs))):
        make(**kwargs)


def test_step_before_reset_says_so() -> None:
    with pytest.raises(EnvError, match=r"reset\(\)"):
        make().unwrapped.step(np.zeros(2, np.float32))


def test_max_steps_truncates() -> None:
    env = make(max_steps=3)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(3)]
    assert ends == [False, False, True]
    env.close()


def test_believed_pose_is_exact_without_noise_and_drifts_with_it() -> None:
    errors = {}
    for noise in (0.0, 0.2):
        env = make(odometry_noise=noise, truth=True)
        obs, info = env.reset(seed=4)
        assert np.allclose(obs["world_from_camera"].reshape(4, 4), info["truth"]["world_from_camera"], atol=1e-5)
        for _ in range(15):
            obs, *_, info = env.step(np.array([0.6, 0.4], np.float32))
        believed = obs["world_from_camera"].reshape(4, 4)
        errors[noise] = np.abs(believed - info["truth"]["world_from_camera"]).max()
        assert np.allclose(believed[:3, :3] @ believed[:3, :3].T, np.eye(3), atol=1e-5)
        env.close()
    assert errors[0.0] < 1e-5
    assert errors[0.2] > 0.01


def test_resting_agent_does_not_drift() -> None:
    env = make(odometry_noise=0.5)
    first = env.reset(seed=4)[0]["world_from_camera"]
    for _ in range(5):
        obs = env.step(np.zeros(2, np.float32))[0]
    assert np.allclose(obs["world_from_camera"], first, atol=1e-4)
    env.close()


def test_many_environments_live_in_one_process() -> None:
    vec = DummyVecEnv([lambda size=size: make(image_size=size) for size in (64, 64, 64)])
    vec.seed(3)
    vec.reset()
    alone = make()
    for _ in range(3):
        batch, *_ = vec.step(np.tile(np.array([[0.5, 0.5]], np.float32), (3, 1)))
    for index in range(3):
        alone.reset(seed=3 + index)
        for _ in range(3):
            obs = alone.step(np.array([0.5, 0.5], np.float32))[0]
        assert np.array_equal(batch["rgb"][index], obs["rgb"])
    vec.close()
    alone.close()


def test_importing_the_environments_does_not_import_torch() -> None:
    code = (
        "import sys, gymnasium, liftwm_envs; e = gymnasium.make('liftwm/Revisit-S-v0'); e.reset(seed=0); "
        "import liftwm_envs.wrappers, liftwm_envs.lower_bounds; "
        "print([m for m in ('torch', 'embodied_liftwm', 'liftwm_agents', 'h5py') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_gl_gives_one_clear_line() -> None:
    code = (
        "import gymnasium, liftwm_envs\n"
        "try:\n    gymnasium.make('liftwm/Revisit-S-v0').reset()\n"
        "except liftwm_envs.EnvError as error:\n    print('line:', error)"
    )
    env = {**__import__("os").environ, "MUJOCO_GL": "egl", "__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert result.stdout.startswith("line:")
    assert "libegl1" in result.stdout
