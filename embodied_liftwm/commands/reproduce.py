"""`liftwm reproduce NAME`: an experiment of the project, from nothing to its figures."""

from __future__ import annotations

import importlib
from pathlib import Path

from embodied_liftwm.config import ReproduceConfig
from embodied_liftwm.files import disk_errors


def run(name: str, config: ReproduceConfig) -> int:
    """Run one experiment, or go on with it, print its tables and write its rows to `config.results`."""
    with disk_errors(config.results):
        Path(config.results).mkdir(parents=True, exist_ok=True)
    return int(importlib.import_module(f"embodied_liftwm.experiments.{name}").run(config))
