"""Shared by every test: one thread a process, packages importable by child processes, GPU tests skipped without a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
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


SHORT_FIT = 200
"""Steps in which tests fit what the body does before a training, of the 1,000 that take two seconds of a core each time."""


@pytest.fixture(scope="session", autouse=True)
def short_fit() -> Iterator[int]:
    """Spares every training of this process the whole fit, which `whole_fit` brings back."""
    from embodied_liftwm.training import body

    whole, body.STEPS = body.STEPS, SHORT_FIT
    yield whole
    body.STEPS = whole


@pytest.fixture(scope="module")
def whole_fit(short_fit: int) -> Iterator[None]:
    """For tests of the fit, and for those that compare a training with one of another process."""
    from embodied_liftwm.training import body

    body.STEPS = short_fit
    yield
    body.STEPS = SHORT_FIT


HOLD = """
import sys, pathlib
from embodied_liftwm.folder_lock import held
with held(pathlib.Path(sys.argv[1])):
    print("holding", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Has another process hold a folder until the test is over or kills it."""
    holders = []

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(folder)]
        holders.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        assert holders[-1].stdout.readline() == "holding\n"
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.communicate()


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """A small Ray on this machine, shared by all tests of a process: starting one takes seconds."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from embodied_liftwm.workers.ray_engine import RayEngine

    with RayEngine(2, ""):
        yield
