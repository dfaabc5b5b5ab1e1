"""Training of policies by stable-baselines3's PPO: what `liftwm train-agent` runs.

A run folder holds `policy.safetensors`, `metrics.json`, `curve.csv` and `tensorboard/`; all but the log are written whole,
after every rollout. A step is one that the agent acts in after the call: what recurrent policies watch of tours is not counted.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from embodied_liftwm.config import TrainAgentConfig
from embodied_liftwm.files import read_json, write_text
from embodied_liftwm.protocols import WorldModel
from liftwm_agents.policies.held_out import HeldOutScore, HeldOutTours
from liftwm_agents.policies.policy_file import (
    ABOUT,
    POLICY_NAME,
    about_of,
    make_algorithm,
    open_policy,
    policy_at,
    save_policy,
)
from liftwm_agents.policies.readout import FeatureConfig
from liftwm_agents.policies.training_envs import make_venv

METRICS_NAME, CURVE_NAME = "metrics.json", "curve.csv"
MAY_CHANGE = (
    "steps", "run", "device", "evaluate_every", "eval_episodes", "eval_seed", "starts", "parallel", "trust",
)  # fmt: skip
"""Settings in which a continued run may differ: its length, its speed, what is looked at meanwhile."""
TOUR_SHARE = 4
"""A recurrent policy's rollouts and batches are so many times longer, since some three quarters of them are tours."""


@dataclass(frozen=True)
class AgentProgress:
    """Where training stands."""

    steps: int  # played so far, over all resumptions
    total: int  # steps asked for
    fps: float  # played a second since this start, evaluations left out
    episodes: int  # finished since this start
    mean_return: float  # of the last 100 episodes; nan before the first has ended
    success_rate: float  # of the last 100 episodes, where the task says; nan otherwise


@dataclass(frozen=True)
class CurveRow:
    """One evaluation on the held-out tours."""

    steps: int
    seconds: float  # of training since this start, evaluations left out
    cpu_seconds: float  # the same of this process's cores: what a machine that others use too would show
    train_success: float
    train_return: float
    episodes: int
    success: float
    mean_return: float
    imagined_episodes: int
    imagined_success: float
    imagined_return: float


def train_policy(
    config: TrainAgentConfig,
    model: WorldModel,
    on_progress: Callable[[AgentProgress], None] | None = None,
    features: FeatureConfig | None = None,
) -> Path:
    """Train, or continue to train, a policy.

    An existing `policy.safetensors` in the run folder is continued with the steps that remain, on new scenes; its own
    hyper-parameters hold. So is a lone `policy.zip` of an earlier version, if `config.trust` says that it may be opened.

    Args:
        config: see `TrainAgentConfig`.
        model: the world model whose state is read; never changed.
        on_progress: called after every rollout.
        features: what is read of the state; None for the default with what `config` says of it.

    Returns:
        The path of the policy.

    Raises:
        UserError: the model does not fit the environment, or the policy that is there does not fit either.
    """
    run = Path(config.run)
    run.mkdir(parents=True, exist_ok=True)
    path, found = run / POLICY_NAME, policy_at(run)
    done = saved_steps(run) if found else 0
    read = features or FeatureConfig(watch_every=config.watch_every, read_every=config.read_every, way=config.way)
    venv = make_venv(config, model, read, done)
    held_out = HeldOutTours(config, model)
    try:
        algorithm = open_policy(found, venv, config.device, config.trust) if found else _create(venv, config, read)
        algorithm.set_logger(configure(str(run / "tensorboard"), ["tensorboard"]))
        recorder = _Recorder(path, config, held_out, on_progress)
        while recorder.played_by(algorithm) < config.steps:
            algorithm.learn(algorithm.n_steps * venv.num_envs, recorder, log_interval=1, reset_num_timesteps=False)
            recorder.after_update()
        if not path.exists():
            save_policy(algorithm, path)
    finally:
        venv.close()
        held_out.close()
    return path


def saved_steps(run: Path) -> int:
    """Steps behind the policy of a run folder; 0 where that is not known."""
    try:
        return int(read_json(run / METRICS_NAME)["steps"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _create(venv: VecEnv, config: TrainAgentConfig, features: FeatureConfig) -> OnPolicyAlgorithm:
    longer = TOUR_SHARE if config.input == "recurrent" else 1
    n_steps = longer * config.rollout_steps
    settings = {
        "learning_rate": config.learning_rate,
        "n_steps": n_steps,
        "batch_size": min(longer * config.batch_size, n_steps * venv.num_envs),
        "gamma": config.gamma,
        "ent_coef": config.entropy,
        "seed": config.seed,
    }
    algorithm = make_algorithm(config.input, settings, venv, device=config.device)
    setattr(algorithm, ABOUT, {"input": config.input, "features": asdict(features), "played": 0})
    return algorithm


class _Recorder(BaseCallback):
    """Counts played steps; after every update writes the policy, the metrics and, when it is time, a row of the curve."""

    def __init__(
        self,
        path: Path,
        config: TrainAgentConfig,
        held_out: HeldOutTours,
        on_progress: Callable[[AgentProgress], None] | None,
    ) -> None:
        super().__init__()
        self._path, self._config, self._held_out, self._on_progress = path, config, held_out, on_progress
        self._started, self._paused = _clocks(), np.zeros(2)
        self._played = self._episodes = 0
        self._successes: list[float] = []
        self._curve = read_curve(path.parent)

    def played_by(self, algorithm: OnPolicyAlgorithm) -> int:
        """Steps played by a policy over all resumptions."""
        return int(about_of(algorithm)["played"])

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        played = sum(not info.get("touring", False) for info in infos)
        about = about_of(self.model)  # type: ignore[arg-type]
        setattr(self.model, ABOUT, about | {"played": about["played"] + played})
        self._played += played
        for done, info in zip(self.locals["dones"], infos, strict=True):
            if done:
                self._episodes += 1
                self._successes = [*self._successes[-99:], float(info.get("success", np.nan))]
        return True

    def after_update(self) -> None:
        """Evaluate if it is time, log, save, report."""
        progress = self.progress()
        every, before = self._config.evaluate_every, self._curve[-1].steps if self._curve else 0
        if every and progress.steps // every > before // every:
            self._evaluate(progress)
        self.logger.record("rollout/success_rate", progress.success_rate)
        self.logger.dump(self.model.num_timesteps)
        self._save(progress)
        if self._on_progress is not None:
            self._on_progress(progress)

    def progress(self) -> AgentProgress:
        """Where training stands."""
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        return AgentProgress(
            steps=self.played_by(self.model),  # type: ignore[arg-type]
            total=self._config.steps,
            fps=self._played / max(self._seconds(), 1e-9),
            episodes=self._episodes,
            mean_return=float(np.mean(returns)) if returns else float("nan"),
            success_rate=float(np.mean(self._successes)) if self._successes else float("nan"),
        )

    def _seconds(self) -> float:
        return float(self._clocks()[0])

    def _clocks(self) -> np.ndarray:
        """Seconds of the wall and of this process, evaluations left out. [2]"""
        return _clocks() - self._started - self._paused

    def _evaluate(self, now: AgentProgress) -> None:
        spent, begun = self._clocks(), _clocks()
        score: HeldOutScore = self._held_out.score(self.model)  # type: ignore[arg-type]
        row = CurveRow(now.steps, float(spent[0]), float(spent[1]), now.success_rate, now.mean_return, **asdict(score))
        self._curve = [*self._curve, row]
        for name, value in asdict(score).items():
            self.logger.record(f"held_out/{name}", value)
        write_curve(self._path.parent, self._curve)
        self._paused += _clocks() - begun

    def _save(self, progress: AgentProgress) -> None:
        """Write policy and metrics, each whole or not at all."""
        save_policy(self.model, self._path)  # type: ignore[arg-type]
        metrics: dict[str, Any] = asdict(progress)
        if self._curve:
            metrics["held_out"] = asdict(self._curve[-1])
        write_text(self._path.with_name(METRICS_NAME), json.dumps(_without_nan(metrics), indent=2) + "\n")


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.process_time()])


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if value != value else value


def write_curve(run: Path, rows: list[CurveRow]) -> None:
    """`curve.csv` of a run folder, whole or not at all."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(CurveRow)])
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in asdict(row).values()] for row in rows)
    write_text(run / CURVE_NAME, text.getvalue())


def read_curve(run: Path) -> list[CurveRow]:
    """What `write_curve` wrote; nothing where there is none."""
    if not (run / CURVE_NAME).exists():
        return []
    kinds = {field.name: int if str(field.type) == "int" else float for field in fields(CurveRow)}
    with (run / CURVE_NAME).open(newline="") as file:
        rows: list[dict[str, Any]] = [{name: kinds[name](cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    return [CurveRow(**row) for row in rows]
