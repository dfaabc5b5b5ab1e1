"""What the experiments of `liftwm reproduce` share: their folder, their datasets, and models trained side by side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from embodied_liftwm.config import TRAIN_MAY_CHANGE, ReproduceConfig, TrainConfig
from embodied_liftwm.run_folder import open_run
from embodied_liftwm.training.trainer import Trainer
from embodied_liftwm.workers.side_by_side import TRAINED, Tell
from liftwm_agents.collection.shown import collect_shown

SETTINGS_MAY_CHANGE = {
    "out", "results", "parts", "supports_m", "rows", "budgets", "bases", "teachers", "dosed", "doses", "seeds", "alone_seeds",
    "dose_seeds", "processes", "bootstrap", "memories", "cache_bytes", "loops",
}  # fmt: skip
"""Settings in which a continued experiment may differ: how much of it is done, not how any part of it is."""
TWO_D_TERMS = ("frame", "ego_motion", "reward", "continuation")
"""The frame term, and what of the task every model learns beside it."""
GAUSSIANS_A_PATCH = 32
"""Gaussians that take about the bytes of a patch. Where the frame term moves depth they are the better read-out
(docs/experiments.md, section 14): alpha compositing lets more of a picture's error reach depth than the first surface does."""


def claim(folder: Path, config: ReproduceConfig) -> AbstractContextManager[Path]:
    """Hold the experiment's folder, and write the settings into it, or hold those that are there against these.

    Raises:
        UserError: another process holds it, or it holds the experiment with another setting, which is named.
    """
    return open_run(folder, config, SETTINGS_MAY_CHANGE, continued=True)


def collect_both(config: ReproduceConfig, data: Path, policy: str = "", held_out_policy: str = "") -> None:
    """Training episodes, and held-out ones of other scenes and layouts; what is there is not collected again.

    Args:
        config: of the experiment.
        data: gets the datasets `train` and `eval`.
        policy: the explorer of the training episodes; empty for that of `config.collect`.
        held_out_policy: of the held-out ones.
    """
    policies = policy or config.collect.policy, held_out_policy or config.collect.policy
    collect_shown(replace(config.collect, out=str(data / "train"), split="train", policy=policies[0]))
    held_out = replace(config.collect, out=str(data / "eval"), split="eval", policy=policies[1], seed=config.eval_seed)
    collect_shown(replace(held_out, episodes=config.eval_episodes))


def seeds(config: ReproduceConfig) -> range:
    """Training seeds of the experiment."""
    return range(config.train.seed, config.train.seed + config.seeds)


def without_geometry(train: TrainConfig) -> TrainConfig:
    """The same model with the frame term alone, and what only that term could teach.

    What it has to teach depth is the splatted image; matching frames by depth is not part of it. A state of patches becomes one
    of Gaussians, of about as many bytes.
    """
    unmatched = replace(train.model, stereo_sources=0, epipolar_heads=0, frame_moves_depth=True)
    if unmatched.memory == "patches":
        unmatched = replace(unmatched, memory="gaussians", movers=0).sized(GAUSSIANS_A_PATCH * unmatched.patches.budget)
    return replace(train, terms=TWO_D_TERMS, geometry_first=0.0, model=unmatched)


def train(
    settings: TrainConfig,
    tell: Tell,
    after_step: Callable[[Trainer], None] = lambda trainer: None,
    begin: Callable[[Trainer], None] = lambda trainer: None,
) -> None:
    """Train a model, or go on with it, to its end.

    Args:
        settings: of the run.
        tell: takes every step's row, with its progress, and the word that the training is over.
        after_step: called after every step, before it is told.
        begin: called before the first step, and again before the first of every resumption.
    """
    from embodied_liftwm.training.checkpoint import checkpoints

    folder = Path(settings.run)
    with open_run(folder, settings, TRAIN_MAY_CHANGE, continued=bool(checkpoints(folder))):
        trainer = Trainer(settings)
        begin(trainer)

        def step(row: dict[str, float]) -> None:
            after_step(trainer)
            tell(row | {"progress": trainer.progress})

        trainer.fit(step)
    tell(TRAINED)
