"""A wheel holds the three packages and the presets, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import embodied_liftwm


@pytest.fixture(scope="module")
def wheel_names(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(root)]
    made = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = out.glob("*.whl")
    assert wheel.name.startswith(f"embodied_liftwm-{embodied_liftwm.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_top_levels_are_the_three_import_names(wheel_names: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"embodied_liftwm", "liftwm_envs", "liftwm_agents"}


def test_yaml_is_exactly_the_presets(wheel_names: list[str], root: Path) -> None:
    presets = {f"embodied_liftwm/configs/{path.name}" for path in (root / "configs").iterdir()}
    assert {name for name in wheel_names if name.endswith((".yaml", ".yml"))} == presets


def test_every_module_of_the_checkout_is_in_it(wheel_names: list[str], root: Path) -> None:
    for top, folder in (("embodied_liftwm", "."), ("liftwm_envs", "envs"), ("liftwm_agents", "agents")):
        here = {str(path.relative_to(root / folder)) for path in (root / folder / top).rglob("*.py")}
        assert here == {name for name in wheel_names if name.startswith(f"{top}/") and name.endswith(".py")}


def test_type_checkers_are_told_of_the_annotations(wheel_names: list[str]) -> None:
    assert {f"{top}/py.typed" for top in ("embodied_liftwm", "liftwm_envs", "liftwm_agents")} <= set(wheel_names)


def test_weights_are_exactly_the_shipped_ones(wheel_names: list[str], root: Path) -> None:
    folders = ("embodied_liftwm/checkpoints/", "embodied_liftwm/priors/weights/")
    here = {str(path.relative_to(root)) for folder in folders for path in (root / folder).glob("*/*")}
    found = {name for name in wheel_names if name.startswith(folders) or name.endswith(".safetensors")}
    assert found == here


def test_manifests_are_exactly_the_frozen_ones(wheel_names: list[str], root: Path) -> None:
    folder = "embodied_liftwm/evaluation/manifests/"
    here = {str(path.relative_to(root)) for path in (root / folder).iterdir()}
    assert f"{folder}SHA256SUMS" in here and f"{folder}permanence-Search-S.json" in here
    assert {name for name in wheel_names if name.startswith(folder)} == here


def test_the_program_and_the_licence_are_in_it(wheel_names: list[str]) -> None:
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel_names)
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_nothing_names_torchvision(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    pinned = [line for line in (root / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert not [line for line in wanted + pinned if "torchvision" in line]


def test_every_dependency_is_pinned_to_one_tested_version(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    pinned = {}
    for line in (root / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            assert "+" not in version, f"{line}: a local build tag exists on one machine only"
            assert pinned.setdefault(_normal(name), version) == version, f"{name} is pinned twice"
    wanted = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    missing = [line for line in wanted if _normal(re.split(r"[\[<>=]", line)[0]) not in pinned]
    assert not missing
    assert pinned["torch"] == "2.13.0"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
