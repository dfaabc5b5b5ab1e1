"""`liftwm bench NAME`: speed as a ratio within one run, so that the figure travels between machines."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from pathlib import Path

from embodied_liftwm.config import BenchConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import disk_errors

NAMES = ("collect", "rasterize", "train", "state", "memory")
BENCHES = {name: f"embodied_liftwm.bench.{name}" for name in NAMES}
"""Name -> the module whose `run(config)` times it."""


def run(name: str, config: BenchConfig) -> int:
    """Run one benchmark, print its table and write its rows to `config.out`.

    Raises:
        UserError: no benchmark of that name.
    """
    if name not in BENCHES:
        near = difflib.get_close_matches(name, BENCHES, 1)
        raise UserError(f"no benchmark '{name}': {f'did you mean {near[0]}?' if near else 'there is ' + ', '.join(BENCHES)}")
    with disk_errors(config.out):
        Path(config.out).mkdir(parents=True, exist_ok=True)
    bench: Callable[[BenchConfig], int] = importlib.import_module(BENCHES[name]).run
    return bench(config)
