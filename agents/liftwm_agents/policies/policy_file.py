"""Learned policies on disk: one safetensors file that tells everything.

    policy.safetensors
        policy.NAME              weights and buffers of the network
        optimizer.FIELD.NAME     Adam's moments of a weight, and the steps behind them
        metadata `liftwm`        JSON: what the policy sees, its spaces, PPO's settings and counters
        metadata `sha256`        of that JSON and all tensors

Nothing in it is ever run or unpickled. A zip of stable-baselines3 holds pickles, which run what they like when they are opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import check_for_correct_spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import parse_json, whole_file
from embodied_liftwm.weights import check_finite, read_tensors
from liftwm_agents.policies.baselines import PixelExtractor, TouredRecurrentPPO
from liftwm_agents.policies.features import BirdsEyeExtractor
from liftwm_agents.policies.readout import FeatureConfig

POLICY_NAME, ZIP_NAME = "policy.safetensors", "policy.zip"
ABOUT = "liftwm"
"""Attribute of the algorithm, and key of the metadata, that says what its policy sees."""
FORMAT = 1
LSTM_UNITS = 128
SETTINGS: dict[str, type] = {
    "learning_rate": float, "n_steps": int, "batch_size": int, "n_epochs": int, "gamma": float, "gae_lambda": float,
    "ent_coef": float, "vf_coef": float, "max_grad_norm": float, "clip_range": float, "seed": int,
}  # fmt: skip
"""Of PPO: what a policy is trained further with."""
MOST_NUMBERS = 2**26
"""In one observation; a file that claims more is damaged."""


def make_algorithm(
    seen: str, settings: dict[str, Any], env: VecEnv | None, of: tuple[spaces.Space, spaces.Space] | None = None,
    device: str = "cpu",
) -> OnPolicyAlgorithm:  # fmt: skip
    """PPO, or the recurrent one, with a network for what it sees.

    Args:
        seen: `input` of `TrainAgentConfig`.
        settings: keyword arguments of PPO, of `SETTINGS`.
        env: to train on; None to act only.
        of: spaces of observations and actions where there is no `env`.
        device: of the network.
    """
    recurrent = seen == "recurrent"
    extractor = BirdsEyeExtractor if seen in ("state", "imagined") else PixelExtractor
    network: dict[str, Any] = {"features_extractor_class": extractor, "net_arch": [64, 64]}
    if recurrent:
        network |= {"lstm_hidden_size": LSTM_UNITS, "enable_critic_lstm": False, "shared_lstm": True}
    kind: Any = TouredRecurrentPPO if recurrent else PPO
    name = "MultiInputLstmPolicy" if recurrent else "MultiInputPolicy"
    made = kind(name, env, policy_kwargs=network, device=device, _init_setup_model=env is not None, **settings)
    if env is None:
        assert of is not None
        made.observation_space, made.action_space = of
        made.n_envs = 1
        made._setup_model()
    return made


def about_of(algorithm: OnPolicyAlgorithm) -> dict[str, Any]:
    """What an algorithm's policy sees: `input`, `features` and steps `played`."""
    return getattr(algorithm, ABOUT, {"input": "state", "features": {}, "played": algorithm.num_timesteps})


def save_policy(algorithm: OnPolicyAlgorithm, path: Path) -> None:
    """Write everything that acting and training further need, whole or not at all.

    Raises:
        UserError: the disk does not take it, or spaces that cannot be described.
    """
    settings = {name: getattr(algorithm, name) for name in SETTINGS if name != "clip_range"}
    described = {
        "format": FORMAT,
        **about_of(algorithm),
        "observation_space": _describe(algorithm.observation_space),
        "action_space": _describe(algorithm.action_space),
        "settings": settings | {"clip_range": float(algorithm.clip_range(1.0))},  # type: ignore[attr-defined]
        "steps": algorithm.num_timesteps,
        "updates": algorithm._n_updates,
        "episodes": [{key: float(value) for key, value in row.items()} for row in algorithm.ep_info_buffer or ()],
    }
    text, tensors = json.dumps(described), {name: t.detach().cpu().clone() for name, t in _tensors(algorithm).items()}
    with whole_file(path) as partial:
        save_file(tensors, partial, {ABOUT: text, "sha256": _digest(text, tensors)})


def open_policy(path: Path, env: VecEnv | None = None, device: str = "cpu", trust: bool = False) -> OnPolicyAlgorithm:
    """Load a policy.

    Args:
        path: the file, or the run folder that holds it.
        env: to train on further; None to act only.
        device: of its network.
        trust: open a zip of stable-baselines3 too, which runs what is in it.

    Raises:
        UserError: there is none, it is damaged or foreign, a zip without `trust`, or its spaces are not those of `env`.
    """
    found = policy_at(path)
    if found is None:
        raise UserError(f"no policy at {path}: train one with liftwm train-agent")
    if found.suffix == ".zip" or zipfile.is_zipfile(found):
        return _open_zip(found, env, device, trust)
    text, tensors = _read(found)
    about = parse_json(text, found)
    try:
        return _restore(found, about, tensors, env, device)
    except UserError:
        raise
    except Exception as error:  # whatever a network of sizes that fit nothing leads to
        reason = f"it lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{found} is not a policy of this version: {reason}") from error


def policy_at(path: Path) -> Path | None:
    """The file of a policy; of a run folder its own file, else a zip that lies there alone. None where there is none."""
    if not path.is_dir():
        return path if path.is_file() else None
    return next((path / name for name in (POLICY_NAME, ZIP_NAME) if (path / name).is_file()), None)


def _restore(
    path: Path, about: dict[str, Any], tensors: dict[str, Tensor], env: VecEnv | None, device: str
) -> OnPolicyAlgorithm:
    """The algorithm that a file describes."""
    if about["format"] != FORMAT:
        raise UserError(f"{path} has format {about['format']}, this version reads {FORMAT}")
    seen, played = str(about["input"]), int(about["played"])
    features = asdict(FeatureConfig(**about["features"])) if about["features"] else {}
    of = _space(about["observation_space"]), _space(about["action_space"])
    if env is not None:
        try:
            check_for_correct_spaces(env, *of)
        except ValueError as error:
            raise UserError(f"{path} was trained with another model, task or number of environments: {error}") from error
    settings = {name: kind(about["settings"][name]) for name, kind in SETTINGS.items()}
    short = {"n_steps": 2, "batch_size": 2} if env is None else {}  # nothing is collected: no room for it is needed
    algorithm = make_algorithm(seen, settings | short, env, of, device)
    _fill(path, algorithm, tensors)
    setattr(algorithm, ABOUT, {"input": seen, "features": features, "played": played})
    algorithm.num_timesteps, algorithm._n_updates = int(about["steps"]), int(about["updates"])
    algorithm.ep_info_buffer = deque((dict(row) for row in about["episodes"]), algorithm._stats_window_size)
    algorithm.ep_success_buffer = deque(maxlen=algorithm._stats_window_size)
    return algorithm


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The JSON and the tensors of a file that is whole, unchanged and finite."""
    tensors = read_tensors(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if ABOUT not in metadata:
        raise UserError(f"{path} is not a policy of liftwm train-agent: remove it, or name another run")
    if metadata.get("sha256") != _digest(metadata[ABOUT], tensors):
        raise UserError(f"{path} is damaged: its checksum is not that of what it holds")
    check_finite(path, tensors)
    return metadata[ABOUT], tensors


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(repr((name, str(tensor.dtype), list(tensor.shape))).encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _weights(algorithm: OnPolicyAlgorithm) -> dict[str, Tensor]:
    """Parameters and buffers, each once, whatever other names it has in the network."""
    return {**dict(algorithm.policy.named_parameters()), **dict(algorithm.policy.named_buffers())}


def _tensors(algorithm: OnPolicyAlgorithm) -> dict[str, Tensor]:
    weights, state = _weights(algorithm), algorithm.policy.optimizer.state
    moments = {f"optimizer.{field}.{name}": torch.as_tensor(value)
               for name, weight in weights.items() for field, value in state.get(weight, {}).items()}  # fmt: skip
    return {f"policy.{name}": weight for name, weight in weights.items()} | moments


def _fill(path: Path, algorithm: OnPolicyAlgorithm, tensors: dict[str, Tensor]) -> None:
    """Put stored weights and moments in their places; UserError names the first that has none."""
    weights = _weights(algorithm)
    for name in sorted({f"policy.{name}" for name in weights} - tensors.keys()):
        raise UserError(f"{path} lacks tensor {name!r}: this is a policy of another architecture")
    for full, tensor in tensors.items():
        kind, _, name = full.partition(".")
        field, _, name = name.partition(".") if kind == "optimizer" else ("", "", name)
        weight = weights.get(name)
        if weight is None or kind not in ("policy", "optimizer"):
            raise UserError(f"{path} has an extra tensor {full!r}: this is a policy of another architecture")
        if tensor.shape != weight.shape and not (field and tensor.shape == ()):
            got, expected = list(tensor.shape), list(weight.shape)
            raise UserError(f"{path}: tensor {full!r} has shape {got}, expected {expected}: another architecture")
        if not field:
            weight.data.copy_(tensor)
        else:  # the steps stay where Adam keeps them, on the CPU; moments lie in memory as their weight does
            value = torch.empty_like(weight.data).copy_(tensor) if tensor.shape == weight.shape else tensor
            algorithm.policy.optimizer.state[weight][field] = value


def _describe(space: spaces.Space) -> dict[str, Any]:
    """A space as JSON; None is an infinite bound, one number holds for all."""
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {key: _describe(part) for key, part in space.items()}}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Box):
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"kind": "Box", "shape": list(space.shape), "dtype": str(space.dtype), **bounds}
    raise UserError(f"a policy in {space} cannot be saved: Box, Discrete and Dict spaces can")


def _space(described: dict[str, Any]) -> spaces.Space:
    """The inverse of `_describe`."""
    if described["kind"] == "Dict":
        return spaces.Dict({key: _space(part) for key, part in described["spaces"].items()})
    if described["kind"] == "Discrete":
        return spaces.Discrete(int(described["n"]), start=int(described["start"]))
    shape, dtype = tuple(int(length) for length in described["shape"]), np.dtype(described["dtype"])
    if math.prod(shape) > MOST_NUMBERS or dtype.kind not in "iuf":
        raise ValueError(f"observations of {list(shape)} {dtype}")
    low, high = (_bound(described[key], infinite, shape, dtype) for key, infinite in (("low", -np.inf), ("high", np.inf)))
    return spaces.Box(low, high, shape, dtype)  # type: ignore[arg-type]


def _numbers(bound: np.ndarray) -> Any:
    values = [float(value) if np.isfinite(value) else None for value in bound.ravel()]
    return values[0] if values and len(set(values)) == 1 else values


def _bound(stored: Any, infinite: float, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    values = stored if isinstance(stored, list) else [stored]
    numbers = np.array([infinite if value is None else value for value in values], np.float64)
    return np.broadcast_to(numbers.reshape(shape if isinstance(stored, list) else ()), shape).astype(dtype)


def _open_zip(path: Path, env: VecEnv | None, device: str, trust: bool) -> OnPolicyAlgorithm:
    """Load a zip of stable-baselines3, if its user says that it may run what is in it."""
    if not zipfile.is_zipfile(path) or not {"data", "policy.pth"} <= set(zipfile.ZipFile(path).namelist()):
        raise UserError(f"{path} is not a stable-baselines3 zip: remove it, or name another run")
    if not trust:
        raise UserError(f"{path} is a stable-baselines3 zip, and opening one runs what is in it: say trust=true if it is yours")
    with zipfile.ZipFile(path) as file:
        about = parse_json(file.read("data"), path).get(ABOUT)
    if about is None and env is not None:
        raise UserError(f"{path} was not written by liftwm train-agent: it can act, but not be trained further")
    algorithm: type[OnPolicyAlgorithm] = TouredRecurrentPPO if (about or {}).get("input") == "recurrent" else PPO
    try:
        return algorithm.load(path, env=env, device=device)
    except ValueError as error:
        raise UserError(f"{path} was trained with another model, task or number of environments: {error}") from error
