"""Imports run one way (DESIGN: geometry <- memory <- world_model <- training, evaluation <- experiments, bench <- commands)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "embodied_liftwm": ROOT / "embodied_liftwm",
    "liftwm_envs": ROOT / "envs/liftwm_envs",
    "liftwm_agents": ROOT / "agents/liftwm_agents",
}
CONTRACTS = {
    "", "config", "environments", "errors", "files", "folder_lock", "goals", "interrupts", "kernels", "plugins",
    "pose_faults", "protocols", "tensor_tree", "terminal", "threads", "weights",
}  # fmt: skip
ALLOWED = {
    "geometry": set(),
    "memory": {"geometry"},
    "gaussians": {"memory"},
    "world_model": {"geometry", "memory"},
    "objectives": {"geometry", "priors"},
    "priors": {"geometry", "memory", "data"},
    "data": {"geometry"},
    "workers": set(),
    "training": {"geometry", "memory", "world_model", "objectives", "priors", "data"},
    "evaluation": {"geometry", "memory", "world_model", "priors", "data", "workers", "run_folder"},
}
ALLOWED["bench"] = {*ALLOWED, "run_folder"}
ALLOWED["experiments"] = {*ALLOWED, "run_folder"}
"""Part -> parts it may import, beside the contracts and itself. Only commands/ and cli.py may import everything."""
MOST_FILES = 16
"""Of one folder: what one can look through."""

AGENTS_MAY_USE = CONTRACTS | {"geometry", "data", "workers"}


def imported(path: Path) -> set[str]:
    """Dotted names of every module a file imports, also inside functions; `from a import b` counts as `a.b` too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction; write the full name"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names if alias.name.islower())}
    return found


def modules_under(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found, f"no modules under {folder}"
    return found


def parts_of(modules: set[str]) -> set[str]:
    """Parts of embodied_liftwm among imported names, e.g. `geometry`; names that are no module of ours are left out."""
    folder = PACKAGES["embodied_liftwm"]
    names = {module.split(".")[1] for module in modules if module.startswith("embodied_liftwm.")}
    return {name for name in names if (folder / name).is_dir() or (folder / f"{name}.py").is_file()}


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_parts_import_only_what_lies_below_them(part: str) -> None:
    folder = PACKAGES["embodied_liftwm"] / part
    if not folder.is_dir():
        pytest.skip(f"{part}/ does not exist")
    for path in modules_under(folder):
        wrong = parts_of(imported(path)) - ALLOWED[part] - CONTRACTS - {part}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}; {part} may use {sorted(ALLOWED[part])}"


def test_every_part_has_a_direction() -> None:
    folders = {path.parent.name for path in PACKAGES["embodied_liftwm"].glob("*/__init__.py")}
    assert folders <= set(ALLOWED) | CONTRACTS | {"commands"}


def test_contracts_import_no_part() -> None:
    for name in CONTRACTS - {""}:
        folder = PACKAGES["embodied_liftwm"] / name
        for path in modules_under(folder) if folder.is_dir() else [folder.with_suffix(".py")]:
            wrong = parts_of(imported(path)) - CONTRACTS
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_siblings_are_imported_by_the_upper_layers_and_environments_where_they_are_found_and_judged() -> None:
    for path in modules_under(PACKAGES["embodied_liftwm"]):
        inside = path.relative_to(PACKAGES["embodied_liftwm"]).parts[0]
        siblings = {m.split(".")[0] for m in imported(path)} & {"liftwm_envs", "liftwm_agents"}
        free = inside in ("bench", "cli.py", "commands", "experiments")
        allowed = siblings if free else {"liftwm_envs"} if inside in ("environments", "evaluation") else set()
        assert siblings <= allowed, f"{path.relative_to(ROOT)} imports {sorted(siblings)}"


def test_environments_know_neither_torch_nor_their_siblings() -> None:
    for path in modules_under(PACKAGES["liftwm_envs"]):
        tops = {module.split(".")[0] for module in imported(path)}
        assert not tops & {"torch", "embodied_liftwm", "liftwm_agents"}, path.relative_to(ROOT)


def test_agents_reach_models_through_the_protocols() -> None:
    for path in modules_under(PACKAGES["liftwm_agents"]):
        wrong = parts_of(imported(path)) - AGENTS_MAY_USE
        assert not wrong, f"{path.relative_to(ROOT)} imports embodied_liftwm.{sorted(wrong)}"


@pytest.mark.parametrize("module", ["embodied_liftwm", "embodied_liftwm.cli", "embodied_liftwm.data", "liftwm_envs"])
def test_torch_is_not_imported_by(module: str) -> None:
    check = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60).returncode == 0


def test_modules_stay_readable() -> None:
    long = {
        str(p.relative_to(ROOT)): n
        for f in PACKAGES.values()
        for p in modules_under(f)
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long


def test_folders_can_be_looked_through() -> None:
    full = {
        str(folder.relative_to(ROOT)): n
        for package in PACKAGES.values()
        for folder in {path.parent for path in modules_under(package)}
        if (n := len(list(folder.glob("*.py")))) > MOST_FILES
    }
    assert not full
