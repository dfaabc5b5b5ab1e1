"""`liftwm reproduce NAME`: an experiment of the project, from nothing to its figures."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path

from embodied_liftwm.config import ReproduceConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import disk_errors

NAMES = ("agents", "gap", "liftwm", "memories", "priors")
EXPERIMENTS = {name: f"embodied_liftwm.experiments.{name}.experiment" for name in NAMES}
"""Name -> the module whose `run(config)` runs it."""


def run(name: str, config: ReproduceConfig) -> int:
    """Run one experiment, or go on with it, print its tables and write its rows to `config.results`.

    Raises:
        UserError: no experiment of that name.
    """
    if name not in EXPERIMENTS:
        near = difflib.get_close_matches(name, EXPERIMENTS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(EXPERIMENTS)}"
        raise UserError(f"no experiment '{name}': {hint}")
    with disk_errors(config.results):
        Path(config.results).mkdir(parents=True, exist_ok=True)
    experiment: Callable[[ReproduceConfig], int] = importlib.import_module(EXPERIMENTS[name]).run
    return experiment(config)
