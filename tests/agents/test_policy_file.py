"""A policy's file: everything comes back, training goes on as from stable-baselines3's own zip, and nothing is run."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from embodied_liftwm.errors import UserError
from liftwm_agents.policies.policy import PPOPolicy
from liftwm_agents.policies.policy_file import (
    ABOUT,
    POLICY_NAME,
    ZIP_NAME,
    _describe,
    _digest,
    _space,
    make_algorithm,
    open_policy,
    save_policy,
)

SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "n_steps": 8, "batch_size": 8, "gamma": 0.9, "ent_coef": 0.02, "seed": 3}


class Pictures(gym.Env):
    """Noise in, noise out: enough to make updates."""

    observation_space = spaces.Dict(
        image=spaces.Box(0, 255, (3, 24, 24), np.uint8), vector=spaces.Box(-np.inf, np.inf, (6,), np.float32)
    )
    action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 0.5], np.float32))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.np_random = np.random.default_rng(5)
        self.steps = 0
        return self._look(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return self._look(), float(self.np_random.random()), self.steps == 5, False, {}

    def _look(self) -> dict[str, np.ndarray]:
        picture = self.np_random.integers(0, 256, (3, 24, 24), dtype=np.uint8)
        return {"image": picture, "vector": np.ones(6, np.float32)}


def venv() -> VecEnv:
    return DummyVecEnv([Pictures, Pictures])


def trained(seen: str = "pixels") -> OnPolicyAlgorithm:
    algorithm = make_algorithm(seen, SETTINGS, venv())
    setattr(algorithm, ABOUT, {"input": seen, "features": {}, "played": 32})
    return algorithm.learn(32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / POLICY_NAME
    save_policy(trained(), path)
    return path


def weights(algorithm: OnPolicyAlgorithm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in algorithm.policy.state_dict().items()}


@pytest.mark.parametrize("seen", ["pixels", "recurrent"])
def test_training_goes_on_as_from_the_zip(tmp_path: Path, seen: str) -> None:
    algorithm = trained(seen)
    save_policy(algorithm, tmp_path / POLICY_NAME)
    algorithm.save(tmp_path / ZIP_NAME)
    ours = open_policy(tmp_path, venv()).learn(32, reset_num_timesteps=False)
    theirs = open_policy(tmp_path / ZIP_NAME, venv(), trust=True).learn(32, reset_num_timesteps=False)
    assert ours.num_timesteps == theirs.num_timesteps == 64 and ours._n_updates == theirs._n_updates
    after, expected = weights(ours), weights(theirs)
    assert after.keys() == expected.keys()
    assert all(torch.equal(after[name], expected[name]) for name in expected)
    assert any(not torch.equal(after[name], value) for name, value in weights(algorithm).items())


def test_it_acts_alone_and_needs_no_room_for_rollouts(file: Path) -> None:
    acting = open_policy(file)
    assert acting.n_steps == 2
    assert acting.observation_space == Pictures.observation_space and acting.action_space == Pictures.action_space
    seen, _ = Pictures().reset()
    action, _ = acting.predict(seen, deterministic=True)
    assert Pictures.action_space.contains(action)


@pytest.mark.parametrize("space", [Pictures.observation_space, Pictures.action_space, spaces.Discrete(6, start=2)])
def test_spaces_come_back_from_json(space: spaces.Space) -> None:
    assert _space(json.loads(json.dumps(_describe(space)))) == space


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self._path,)


def test_a_strangers_zip_runs_only_when_its_user_says_so(file: Path, tmp_path: Path) -> None:
    trained().save(tmp_path / "good.zip")
    ran, bad = tmp_path / "ran", tmp_path / ZIP_NAME
    with zipfile.ZipFile(tmp_path / "good.zip") as source, zipfile.ZipFile(bad, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "data":
                pickled = base64.b64encode(pickle.dumps(Bomb(ran))).decode()
                content = json.dumps(json.loads(content) | {"extra": {":type:": "x", ":serialized:": pickled}}).encode()
            target.writestr(name, content)
    for path in (tmp_path, bad, bad.rename(tmp_path / "policy.model")):
        with pytest.raises(UserError, match=r"opening one runs what is in it: say trust=true|no policy at"):
            PPOPolicy(None, path)  # type: ignore[arg-type]
    (tmp_path / "policy.model").rename(bad)
    assert not ran.exists()
    open_policy(tmp_path, trust=True)
    assert ran.exists()
    (tmp_path / POLICY_NAME).write_bytes(file.read_bytes())
    ran.unlink()
    assert open_policy(tmp_path, trust=True) and not ran.exists(), "the zip is an export where there is a file of ours"


def test_every_flipped_bit_is_one_line(file: Path, tmp_path: Path) -> None:
    content, rng = file.read_bytes(), np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(0, 8), *rng.integers(8, header, 20), *rng.integers(header, len(content), 20)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "p.safetensors").write_bytes(changed)
        with pytest.raises(UserError) as caught:
            open_policy(tmp_path / "p.safetensors")
        assert "\n" not in str(caught.value)


def test_what_is_no_policy_is_named(file: Path, tmp_path: Path) -> None:
    content, path = file.read_bytes(), tmp_path / "p.safetensors"
    for wrong in (b"", b"\x80\x04.", content[:100], content[:-1], content[8:]):
        path.write_bytes(wrong)
        with pytest.raises(UserError, match="not a readable safetensors file"):
            open_policy(path)
    save_file({"policy.x": torch.ones(2)}, path)
    with pytest.raises(UserError, match="not a policy of liftwm train-agent"):
        open_policy(path)
    pickled = io.BytesIO()
    torch.save({"x": torch.ones(1)}, pickled)
    path.write_bytes(pickled.getvalue())
    with pytest.raises(UserError, match="not a stable-baselines3 zip"):
        open_policy(path)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"format": 2}, "has format 2, this version reads 1"),
        ({"settings": {}}, "it lacks 'learning_rate'"),
        ({"input": "state"}, "is not a policy of this version: "),
        ({"input": "recurrent"}, "lacks tensor 'policy.lstm_actor"),
        ({"features": {"cell": 3}}, "unexpected keyword argument 'cell'"),
        ({"action_space": {"kind": "Discrete", "n": 5, "start": 0}}, r"has shape \[2\], expected \[5\]: another"),
        ({"observation_space": {"kind": "Box", "shape": [10**9, 10**9], "dtype": "float32"}}, "observations of"),
        ({"action_space": None}, "is not a policy of this version: "),
        (None, "is not a policy of this version: "),
    ],
)
def test_a_crafted_description_is_one_line(file: Path, tmp_path: Path, change: Any, line: str) -> None:
    with safe_open(file, "pt") as stored:
        text = stored.metadata()[ABOUT]
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    text = json.dumps(None if change is None else json.loads(text) | change)
    save_file(tensors, tmp_path / "p.safetensors", {ABOUT: text, "sha256": _digest(text, tensors)})
    with pytest.raises(UserError, match=line) as caught:
        open_policy(tmp_path / "p.safetensors")
    assert "\n" not in str(caught.value)


def test_weights_that_diverged_are_refused(file: Path, tmp_path: Path) -> None:
    algorithm = open_policy(file)
    algorithm.policy.log_std.data[0] = float("nan")  # type: ignore[union-attr, operator]
    save_policy(algorithm, tmp_path / "p.safetensors")
    with pytest.raises(UserError, match="1 of the 2 numbers of tensor 'policy.log_std' are NaN"):
        open_policy(tmp_path / "p.safetensors")
