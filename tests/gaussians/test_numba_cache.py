"""Kernels are compiled once for all processes, where the disk lets them be kept, and work where it does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

RENDER = """
import torch
from embodied_liftwm import __file__ as package
from embodied_liftwm.memory.gaussians import rasterize
from embodied_liftwm.memory.gaussians.rasterizer.numba_kernels import paint_band
from tests.gaussians.scenes import random_scene
with torch.no_grad():
    ours, expected = (rasterize(**random_scene(20), width=8, height=8, backend=name).alphas for name in ("numba", "torch"))
torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
stats = paint_band.stats
print(package, sum(stats.cache_misses.values()), sum(stats.cache_hits.values()), sep="\\n")
"""


NOTICE = "liftwm: compiling the kernels that are needed, once for this installation; this can take a minute or two\n"


def render(*paths: Path, **environment: str) -> tuple[str, int, int]:
    """Render in a new process: where the package came from, kernels that were compiled, kernels that came from the cache.

    What is compiled is announced, in one line however many kernels there are, and nothing else is.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    search = os.pathsep.join([*map(str, paths), kept["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-c", RENDER],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=paths[0] if paths else None,
        env=kept | {"PYTHONPATH": search, "PYTHONDONTWRITEBYTECODE": "1"} | environment,
    )
    assert done.returncode == 0, done.stderr
    package, misses, hits = done.stdout.splitlines()
    assert done.stderr == (NOTICE if int(misses) else "")
    return package, int(misses), int(hits)


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    """In the folder that numba is told of; by default it is beside the package or in the user's cache."""
    assert render(NUMBA_CACHE_DIR=str(tmp_path))[1:] == (1, 0)
    assert list(tmp_path.rglob("*paint_band*.nbc"))
    assert render(NUMBA_CACHE_DIR=str(tmp_path))[1:] == (0, 1)


def test_where_nothing_can_be_written_it_compiles_for_itself(tmp_path: Path, root: Path) -> None:
    """A file stands where the cache's folder would be, and there is no home: this holds for root too, unlike permissions."""
    shutil.copytree(root / "embodied_liftwm", tmp_path / "embodied_liftwm", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "embodied_liftwm/memory/gaussians/rasterizer/__pycache__").write_text("not a folder")
    nowhere = str(tmp_path / "embodied_liftwm" / "cli.py")
    package, *compiled = render(tmp_path, HOME=nowhere, XDG_CACHE_HOME=nowhere)
    assert Path(package).is_relative_to(tmp_path)
    assert compiled == [1, 0]
    assert not list(tmp_path.rglob("*.nbc"))


WORKERS = """
import multiprocessing
def compile_all(barrier):
    barrier.wait(60)
    import torch
    from embodied_liftwm.memory.gaussians import rasterize
    from tests.gaussians.scenes import random_scene
    with torch.no_grad():
        rasterize(**random_scene(2), width=8, height=8, backend="numba")
if __name__ == "__main__":
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    workers = [spawn.Process(target=compile_all, args=(barrier,)) for _ in range(2)]
    for worker in workers: worker.start()
    for worker in workers: worker.join()
"""


def test_of_several_workers_one_says_that_kernels_are_compiled(tmp_path: Path) -> None:
    (tmp_path / "workers.py").write_text(WORKERS)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "workers.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, NOTICE)
