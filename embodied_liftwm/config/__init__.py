"""The schema of every command and the only home of defaults.

A command is configured by one frozen dataclass. Values come, in this order, from the defaults here, from a preset
(`configs/NAME.yaml`, one section per command), and from `key=value` words on the command line; `__post_init__` cross-checks
them. Code below the command line receives these typed objects, never a `DictConfig`. Loading and its errors are in
`embodied_liftwm.commands.load_config`. The comment after a field is its documentation: `docs/config.md` is generated from it.

    episodes.py     environments, `collect`; whose seeds make which scenes
    model.py        world models: their memories and sizes
    training.py     `train`
    teachers.py     `priors` and `priors train`
    judging.py      `evaluate`, `manifest`, `generate`, `train-agent`
    experiments.py  `bench`, `demo`
    reproduce.py    the experiments of `reproduce`
"""

from __future__ import annotations

from typing import Any

from embodied_liftwm.config.episodes import (
    EVAL_SEED_OFFSET,
    POLICIES,
    REPORT_SEED,
    SUPPORT_POLICY,
    TEACHER_SEED_OFFSET,
    CollectConfig,
    EnvOptions,
    present_words,
    size_word,
    split_of,
)
from embodied_liftwm.config.experiments import BenchConfig, DemoConfig
from embodied_liftwm.config.judging import (
    HELD_OUT,
    PERMANENCE,
    BodyConfig,
    EvaluateConfig,
    GenerateConfig,
    ManifestConfig,
    PlannerConfig,
    TrainAgentConfig,
)
from embodied_liftwm.config.model import (
    LEAST_BUDGET,
    LEAST_LATENT_DIM,
    ContextConfig,
    GaussiansConfig,
    LatentBoundedConfig,
    ModelConfig,
    PatchesConfig,
    RecurrentConfig,
    RgbCloudConfig,
)
from embodied_liftwm.config.reproduce import (
    EXPERIMENTS,
    DoseConfig,
    MemoryRow,
    ReproduceAgentsConfig,
    ReproduceCheckpointConfig,
    ReproduceConfig,
    ReproduceDemoConfig,
    ReproduceExpectationConfig,
    ReproduceGapConfig,
    ReproduceLiftwmConfig,
    ReproduceMemoriesConfig,
    ReproduceMovingConfig,
    ReproducePlannerConfig,
    ReproducePriorsConfig,
    ReproduceTeachersConfig,
    ReproduceTransferConfig,
    TableConfig,
    TableRow,
    TrainingsConfig,
)
from embodied_liftwm.config.teachers import FORMER_NAMES, PriorsConfig, TeacherConfig
from embodied_liftwm.config.training import (
    TRAIN_MAY_CHANGE,
    TrainConfig,
)

COMMANDS: dict[str, Any] = {
    "collect": CollectConfig,
    "priors": PriorsConfig,
    "priors train": TeacherConfig,
    "train": TrainConfig,
    "train-agent": TrainAgentConfig,
    "evaluate": EvaluateConfig,
    "manifest": ManifestConfig,
    "generate": GenerateConfig,
    "bench": BenchConfig,
    **{f"reproduce {name}": schema for name, schema in EXPERIMENTS.items()},
    "demo": DemoConfig,
}
"""Command name -> its schema. Preset files have one section per command under the same name."""
MOVED_KEYS = {
    ("train", "prior"): "teachers of our own are trained by `liftwm priors train name=NAME`",
    ("evaluate", "suites"): "it is suite= now",
    ("evaluate", "parts"): "it is suite= now",
    ("train-agent", "export_zip"): "`PPOPolicy(model, run)` acts; open_policy(run).save(path) writes stable-baselines3's zip",
    ("demo", "evaluate.suites"): "it is evaluate.suite= now",
    ("reproduce agents", "agents.tasks"): "it is tasks",
    ("reproduce agents", "agents.inputs"): "it is inputs",
    ("reproduce agents", "agents.episodes"): "it is episodes",
    ("reproduce agents", "agents.train"): "it is train",
    ("reproduce priors", "prior_episodes"): "it is collect.episodes",
    ("reproduce priors", "doses.scale"): "doses are doses.noise and doses.outliers",
    ("reproduce priors", "doses.pose"): "doses are doses.noise and doses.outliers",
}
"""Keys that a command had -> what serves now."""

__all__ = [
    "COMMANDS",
    "EVAL_SEED_OFFSET",
    "EXPERIMENTS",
    "FORMER_NAMES",
    "HELD_OUT",
    "LEAST_BUDGET",
    "LEAST_LATENT_DIM",
    "MOVED_KEYS",
    "PERMANENCE",
    "POLICIES",
    "REPORT_SEED",
    "SUPPORT_POLICY",
    "TEACHER_SEED_OFFSET",
    "TRAIN_MAY_CHANGE",
    "BenchConfig",
    "BodyConfig",
    "CollectConfig",
    "ContextConfig",
    "DemoConfig",
    "DoseConfig",
    "EnvOptions",
    "EvaluateConfig",
    "GaussiansConfig",
    "GenerateConfig",
    "LatentBoundedConfig",
    "ManifestConfig",
    "MemoryRow",
    "ModelConfig",
    "PatchesConfig",
    "PlannerConfig",
    "PriorsConfig",
    "RecurrentConfig",
    "ReproduceAgentsConfig",
    "ReproduceCheckpointConfig",
    "ReproduceConfig",
    "ReproduceDemoConfig",
    "ReproduceExpectationConfig",
    "ReproduceGapConfig",
    "ReproduceLiftwmConfig",
    "ReproduceMemoriesConfig",
    "ReproduceMovingConfig",
    "ReproducePlannerConfig",
    "ReproducePriorsConfig",
    "ReproduceTeachersConfig",
    "ReproduceTransferConfig",
    "RgbCloudConfig",
    "TableConfig",
    "TableRow",
    "TeacherConfig",
    "TrainAgentConfig",
    "TrainConfig",
    "TrainingsConfig",
    "present_words",
    "size_word",
    "split_of",
]
