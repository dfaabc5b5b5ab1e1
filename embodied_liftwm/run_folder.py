"""The folder of a run: which process holds it, which command it belongs to, and whether a second one may continue it.

FOLDER/config.yaml     the command, and its resolved configuration
FOLDER/versions.txt    what the run was made with
FOLDER/.lock           see `folder_lock`
"""

from __future__ import annotations

import dataclasses
import platform
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from embodied_liftwm import __version__
from embodied_liftwm.config import COMMANDS, FORMER_NAMES, present_words
from embodied_liftwm.config.model import in_present_keys
from embodied_liftwm.data.storage import INFO
from embodied_liftwm.errors import UserError
from embodied_liftwm.files import remove_folder, remove_partials, write_text
from embodied_liftwm.folder_lock import held

PACKAGES = ("torch", "mujoco", "gymnasium", "stable-baselines3", "numpy", "h5py", "numba")


WRITTEN = (
    "checkpoints", "metrics.csv", "metrics.json", "curve.csv", "rows.csv", "report", "video.mp4", "picture.png", "versions.txt",
    "policy.zip",
)  # fmt: skip
"""What commands write into their folders: things of these names that others made would be lost."""
OPENED = {"config.yaml", "versions.txt", ".lock", ".lock-workers"}
"""What a folder holds before any work."""
TRACES = {INFO: "collect", "checkpoints/step-*/model.json": "train", "policy.safetensors": "train-agent"}
"""By what a folder that the Python interface made, without config.yaml, belongs to a command."""


@contextmanager
def open_run(folder: str | Path, config: Any, may_change: Collection[str] = (), continued: bool = False) -> Iterator[Path]:
    """Hold a run folder for this process, and `claim` it for the command.

    Inside a block that holds it already, as `liftwm demo` does when it evaluates, it stays the outer command's. A new folder is
    taken away again where bad input ends the block before any work.

    Raises:
        UserError: another process holds it; or as `claim` says. Nothing was written then.
    """
    folder = Path(folder)
    new = not folder.exists()
    with held(folder, _key(config)) as anew:
        if anew:
            claim(folder, config, may_change, continued)
        try:
            yield folder
        except UserError:
            if new and all(path.is_dir() or path.name in OPENED for path in folder.rglob("*")):
                remove_folder(folder)
            raise


def claim(folder: Path, config: Any, may_change: Collection[str] = (), continued: bool = False) -> None:
    """Make a folder a command's, or find that it is, and write the resolved config and the versions into it.

    Args:
        folder: the run folder, held by this process.
        config: the command's dataclass.
        may_change: top-level keys in which a continued run may differ.
        continued: whether the folder already holds work that these settings must match.

    Raises:
        UserError: the folder belongs to another command, or holds what none of them wrote and they would replace; its work was
            done with another setting, which is named.
    """
    command, key, mine = _command(config), _key(config), yaml.safe_load(yaml.safe_dump(_plain(config)))
    _check_owner(folder, command, key)
    path = folder / "config.yaml"
    if continued and path.exists():
        usual = yaml.safe_load(yaml.safe_dump(_plain(type(config)())))
        for name, was, now in _differences(_read(path), mine, usual):
            if name.partition(".")[0] not in may_change:
                raise UserError(f"{folder} holds a run with {name}={was}, asked for {name}={now}: choose another {key}")
    for place in (folder, folder / "checkpoints", folder / "report"):
        remove_partials(place)
    write_text(path, yaml.safe_dump({"command": command} | mine, sort_keys=False))
    write_text(folder / "versions.txt", "\n".join(versions()) + "\n")


def _check_owner(folder: Path, command: str, key: str) -> None:
    """Refuse a folder of another command, or of nobody we know."""
    if (folder / "config.yaml").exists():
        stored = _read(folder / "config.yaml")
        owner = stored.get("command") or _resembled(stored)
        if not owner:
            raise UserError(f"{folder / 'config.yaml'} is none of liftwm: choose another {key}")
    else:
        owner = next((owner for trace, owner in TRACES.items() if any(folder.glob(trace))), "")
        theirs = [name for name in WRITTEN if (folder / name).exists()]
        if theirs and not owner and not _is_ours(folder):
            raise UserError(f"{folder} holds {theirs[0]}, which liftwm has not written: choose another {key}")
        owner = owner or command
    if owner not in (command, command.partition(" ")[0]):  # all experiments were of one command once
        raise UserError(f"{folder} belongs to `liftwm {owner}`: choose another {key}")


def _resembled(stored: dict[str, Any]) -> str:
    """The command whose settings these are, of versions that did not write its name; empty if they are no command's."""
    known = {name: {field.name for field in dataclasses.fields(kind)} for name, kind in COMMANDS.items()}
    nearest = min(known, key=lambda name: len(known[name] ^ stored.keys()))
    return nearest if len(known[nearest] & stored.keys()) > len(stored) / 2 else ""


def _is_ours(folder: Path) -> bool:
    """Whether liftwm wrote the results in a folder without config.yaml, as older versions did."""
    signs = {folder / "metrics.json": '"command": "liftwm ', folder / "versions.txt": "embodied-liftwm "}
    return any(path.is_file() and sign in path.read_text("utf-8", "replace") for path, sign in signs.items())


def _command(config: Any) -> str:
    return next(name for name, kind in COMMANDS.items() if type(config) is kind)


def _key(config: Any) -> str:
    """The word that names the folder of a command."""
    return "run=" if hasattr(config, "run") else "out="


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("command", ""), str):
        raise UserError(f"{path} is damaged: restore it, or choose another folder")
    found = _in_present_groups(present_words(found))
    return _in_present_words(found) if found.get("command", "train") == "train" else found


def _in_present_groups(stored: dict[str, Any]) -> dict[str, Any]:
    """With the settings of every model in it by the keys that they have now."""
    found = {key: _in_present_groups(value) if isinstance(value, dict) else value for key, value in stored.items()}
    if "geometry_first" in found and isinstance(found.get("data"), str):  # a training, once of one dataset alone
        found["data"] = [found["data"]]
    model = found.get("model")
    return found | {"model": in_present_keys(model)} if isinstance(model, dict) else found


def _in_present_words(stored: dict[str, Any]) -> dict[str, Any]:
    """The settings of a training as this version would write them: teachers of ours had other names, and no own command."""
    if isinstance(priors := stored.get("priors"), list):
        stored = stored | {"priors": [FORMER_NAMES.get(name, name) for name in priors]}
    if name := FORMER_NAMES.get(stored.get("prior", "")):
        frames = stored.get("batch_size", 0) * stored.get("context", 0)
        stored = stored | {"command": "priors train", "name": name, "frames": frames}
    return stored


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


def _differences(
    old: dict[str, Any], new: dict[str, Any], usual: dict[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Settings in which two differ: name, old, new. One that the old lack came later, and was what is `usual` until then."""
    found = []
    for name, now in new.items():
        was = old.get(name, usual.get(name))
        if isinstance(was, dict) and isinstance(now, dict):
            found += _differences(was, now, usual.get(name) or {}, f"{prefix}{name}.")
        elif was != now:
            found.append((prefix + name, was, now))
    return found
