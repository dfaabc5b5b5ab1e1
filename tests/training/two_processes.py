"""What each of two processes does in `test_parallel.py`: trainings as a library, and the exchanges by themselves.

torchrun --nproc-per-node 2 two_processes.py DATA RESUMED TIMED OUT
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from embodied_liftwm.training.parallel import torchrun_processes
from embodied_liftwm.training.trainer import Trainer
from tests.training.small import config

STEPS = 6
SETTINGS: dict[str, Any] = {"steps": STEPS, "validation": (0.34,)}  # of three episodes one


def main(data: Path, resumed: Path, timed: Path, out: Path) -> None:
    with torchrun_processes("cpu") as processes:
        Trainer(config(data, resumed, **SETTINGS)).fit()
        by_clock = Trainer(config(data, timed, minutes=0.01, steps=10_000, geometry_first=0.0))
        by_clock.fit()
        stopped = Trainer(config(data, out / "stopped", save_every=100))
        with contextlib.suppress(KeyboardInterrupt):
            stopped.fit(lambda row: signal.raise_signal(signal.SIGINT) if (processes.rank, row["step"]) == (1, 2) else None)
            raise AssertionError("was not interrupted")
        tensors = [torch.full((2, 3), float(processes.rank)), torch.arange(4.0) * (1 + processes.rank)]
        processes.average(tensors)
        said: dict[str, object] = {
            "rank": processes.rank,
            "step": by_clock.step,
            "seconds": by_clock.seconds,
            "stopped": stopped.step,
            "average": [tensor.tolist() for tensor in tensors],
            "from_first": processes.from_first(0.1 + processes.rank),
        }
    said["threads"] = sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
    (out / f"{processes.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
