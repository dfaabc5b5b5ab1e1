"""The folder of a run: its resolved configuration, and whether a second command may continue it."""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from embodied_liftwm import __version__
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import remove_partials, write_text

PACKAGES = ("torch", "mujoco", "gymnasium", "stable-baselines3", "numpy", "h5py", "numba")


def open_run(folder: str | Path, config: Any, may_change: Collection[str] = (), continued: bool = False) -> Path:
    """Make a run folder, or open one to continue, and write the resolved config and the versions into it.

    Args:
        folder: the run folder.
        config: the command's dataclass.
        may_change: top-level keys in which a continued run may differ.
        continued: whether the folder already holds work that these settings must match.

    Raises:
        UserError: the work in the folder was done with another setting, which is named.
    """
    folder = Path(folder)
    mine = yaml.safe_load(yaml.safe_dump(_plain(config)))
    stored = folder / "config.yaml"
    if continued and stored.exists():
        for name, was, now in _differences(_read(stored), mine):
            if name.partition(".")[0] not in may_change:
                raise UserError(f"{folder} holds a run with {name}={was}, asked for {name}={now}: choose another run=")
    remove_partials(folder)
    write_text(stored, yaml.safe_dump(mine, sort_keys=False))
    write_text(folder / "versions.txt", "\n".join(versions()) + "\n")
    return folder


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} is damaged: restore it, or choose another run=")
    return found


def versions() -> list[str]:
    """What the run was made with, one line each."""
    found = [f"embodied-liftwm {__version__}", f"command {' '.join(['liftwm', *sys.argv[1:]])}"]
    found.append(f"python {platform.python_version()}")
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found = []
    for name in new:
        was, now = old.get(name), new[name]
        if isinstance(was, dict) and isinstance(now, dict):
            found += _differences(was, now, f"{prefix}{name}.")
        elif was != now:
            found.append((prefix + name, was, now))
    return found
