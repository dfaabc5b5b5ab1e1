"""Shared by every test: one thread a process, packages importable by child processes, GPU tests skipped without a GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy and torch are imported: test processes share few cores
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "envs"), str(ROOT / "agents"), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on machines without one; torch is imported only if there are any."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The source checkout."""
    return ROOT


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A small Ray on this machine, shared by all tests of a process: starting one takes seconds."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from embodied_liftwm.workers.ray_engine import RayEngine

    with RayEngine(2, ""):
        yield
