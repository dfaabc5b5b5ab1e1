"""`liftwm doctor`: whether this machine has what liftwm needs, and how to mend what it lacks.

`liftwm doctor env=my_package:make_env` holds an environment against its contract instead, one line a fault.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from rich.console import Console
from rich.text import Text

from embodied_liftwm import __version__
from embodied_liftwm.errors import UserError
from embodied_liftwm.terminal import plain_console

MIN_FREE_GB = 1.0
"""Below this much free disk space, a small dataset and a run do not fit."""

EXTRAS = {"priors": "transformers", "cuda": "gsplat", "data": "minari", "viz": "viser", "dist": "ray"}
"""Optional dependency group -> the module that tells whether it is installed."""


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    name: str
    ok: bool
    text: str
    remedy: str = ""  # what to do where it is not ok
    essential: bool = True  # whether liftwm cannot work without it


def run(env: str = "") -> int:
    """Print every finding; return 1 if something essential is missing, else 0.

    Args:
        env: look at this environment, and not at the machine.

    Raises:
        UserError: there is no such environment, or it cannot be built.
    """
    console = plain_console(soft_wrap=True)
    if env:
        return _examine(env, console)
    console.print(f"liftwm {__version__} on {platform.platform()}")
    missing = []
    for check in CHECKS:
        for finding in _guarded(check):
            mark = ("ok  ", "green") if finding.ok else ("MISS", "red") if finding.essential else ("--  ", "yellow")
            console.print(Text.assemble("  ", mark, f" {finding.name:<10} {finding.text}"))
            if not finding.ok and finding.remedy:
                console.print(f"                  -> {finding.remedy}")
            if finding.essential and not finding.ok:
                missing.append(finding.name)
    console.print(f"missing: {', '.join(missing)}" if missing else "nothing essential is missing")
    return 1 if missing else 0


def _examine(name: str, console: Console) -> int:
    """What an environment gives, and every fault found in it."""
    from embodied_liftwm.config import EnvOptions
    from embodied_liftwm.environments import find_env
    from embodied_liftwm.plugins import users_code
    from liftwm_envs.contract import check_env, given_by

    env = find_env(name).make(EnvOptions(), truth=True)
    with users_code(f"env={name}"):
        faults = check_env(env)
        lines = [f"  fault {fault}" for fault in faults] or [f"  ok    {line}" for line in given_by(env)]
    env.close()
    for line in lines:
        console.print(line, markup=False, highlight=False)
    console.print(f"{name} breaks its contract: docs/your_environment.md" if faults else f"{name} keeps its contract")
    return 1 if faults else 0


def check_python() -> list[Finding]:
    """The interpreter and its age."""
    found = f"{platform.python_version()} at {sys.executable}"
    return [Finding("python", sys.version_info >= (3, 11), found, "use Python 3.11 or newer")]


def check_packages() -> list[Finding]:
    """Every core dependency is installed; one line for all, or one for each that is missing."""
    try:
        names = [line for line in requires("embodied-liftwm") or [] if "extra ==" not in line]
    except PackageNotFoundError:
        return [Finding("package", False, "embodied-liftwm is not installed", "pip install -e .", essential=False)]
    absent = []
    for line in names:
        name = line.split(";")[0].split(">")[0].split("=")[0].strip()
        try:
            version(name)
        except PackageNotFoundError:
            absent.append(Finding(name, False, "not installed", f"pip install '{line}'"))
    return absent or [Finding("packages", True, f"all {len(names)} core dependencies are installed")]


def check_torch() -> list[Finding]:
    """torch computes, and on what."""
    import torch

    total = float(torch.ones(8, 8).matmul(torch.ones(8, 8)).sum())
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device: everything runs on the CPU"
    return [
        Finding("torch", total == 512.0, f"{torch.__version__}, {torch.get_num_threads()} threads", "reinstall torch"),
        Finding("gpu", torch.cuda.is_available(), gpu, essential=False),
    ]


def check_rendering() -> list[Finding]:
    """A room is built and its first frame is not black, through the GL that collection would use."""
    import gymnasium

    import liftwm_envs
    from liftwm_envs.rendering import describe_renderer

    env = gymnasium.make(liftwm_envs.ENV_IDS[0])
    frame = env.reset(seed=0)[0]["rgb"]
    env.close()
    spread = int(frame.max()) - int(frame.min())
    shown = f"{describe_renderer()}; test frame {frame.shape[1]}x{frame.shape[0]}, brightness {frame.min()} to {frame.max()}"
    return [
        Finding("mujoco", True, version("mujoco")),
        Finding("rendering", spread > 16, shown, "the frame is empty: try MUJOCO_GL=osmesa, or update the GL driver"),
    ]


def check_numba() -> list[Finding]:
    """numba compiles and runs: the CPU rasterizer needs it."""
    import numba

    doubled = numba.njit(lambda value: 2 * value)(21)
    return [Finding("numba", doubled == 42, f"{numba.__version__} compiles", "reinstall numba")]


def check_machine() -> list[Finding]:
    """Cores, memory, and a current folder that can be written to with room in it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(".").free / 1e9
    try:
        with tempfile.TemporaryFile(dir="."):
            writable = True
    except OSError:
        writable = False
    return [
        Finding("cores", True, f"{cores} usable, {memory:.0f} GiB of memory"),
        Finding(
            "disk", free >= MIN_FREE_GB, f"{free:.1f} GB free here", f"free at least {MIN_FREE_GB:.0f} GB, or work elsewhere"
        ),
        Finding("folder", writable, f"{os.getcwd()} is {'' if writable else 'not '}writable", "change to a folder of yours"),
    ]


def check_extras() -> list[Finding]:
    """Optional dependency groups, by a module of each."""
    present = [name for name, module in EXTRAS.items() if find_spec(module)]
    absent = [name for name in EXTRAS if name not in present]
    found = f"installed: {', '.join(present) or 'none'}"
    return [
        Finding("extras", not absent, found, f"optional: pip install 'embodied-liftwm[{','.join(absent)}]'", essential=False)
    ]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_python,
    check_machine,
    check_packages,
    check_torch,
    check_numba,
    check_rendering,
    check_extras,
)


def _guarded(check: Callable[[], list[Finding]]) -> list[Finding]:
    """Run one check; whatever it raises is its finding, since a broken machine may raise anything."""
    name = check.__name__.removeprefix("check_")
    try:
        return check()
    except ImportError as error:
        return [Finding(name, False, f"{type(error).__name__}: {error}", "make venv, or pip install -e .")]
    except Exception as error:
        environments = sys.modules.get("liftwm_envs.errors")
        known = isinstance(error, (UserError, environments.EnvError) if environments else UserError)
        text = str(error) if known else f"{type(error).__name__}: {error}"
        remedy = "" if known else "Debian: apt-get install libegl1 libgl1 libosmesa6" if name == "rendering" else ""
        return [Finding(name, False, " ".join(text.split()), remedy)]
