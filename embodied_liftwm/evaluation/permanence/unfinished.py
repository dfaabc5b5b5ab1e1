"""What an interrupted `liftwm evaluate suite=permanence` had measured, for the next run of the same command to go on with.

    OUT/unfinished/config.yaml                   the configuration it was begun with
    OUT/unfinished/Revisit-S-readings.json       the rows of one suite on one task

The folder is gone when the run is over: a whole run is never made of an older one.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embodied_liftwm.config import EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.permanence.manifest import file_word
from embodied_liftwm.evaluation.permanence.suites import Row, Suite
from embodied_liftwm.files import read_json, write_text
from embodied_liftwm.plugins import import_named, is_function_name
from embodied_liftwm.run_folder import claim, versions

FOLDER = "unfinished"
MAY_CHANGE = {"out", "suite", "tasks", "workers", "engine", "ray_address", "bootstrap", "trust"}
"""Settings in which the second command may differ: how much is done and by whom, not what comes out of it."""


def kept(config: EvaluateConfig) -> str:
    """What an interrupted evaluation has left for the same command to go on from."""
    rows = sorted((Path(config.out) / FOLDER).glob("*.json")) if config.permanence else []
    if not rows:
        return "nothing was kept: the same command starts from the beginning"
    names = ", ".join(path.stem for path in rows)
    return f"finished suites ({names}) are kept in {config.out}: the same command continues with the rest"


class Unfinished:
    """Rows that are kept until the run is over.

    Args:
        config: of the run.
        models: `CheckedModel`s; rows of models whose weights or code have changed since are not used.
        manifests: texts of the manifests, by task.

    Raises:
        UserError: the folder holds rows of a run with another setting, which is named.
    """

    def __init__(self, config: EvaluateConfig, models: Sequence[Any], manifests: dict[str, str]) -> None:
        self._folder = Path(config.out) / FOLDER
        try:
            claim(self._folder, config, MAY_CHANGE, continued=True)
        except UserError as error:
            raise UserError(str(error).replace("another out=", f"another out=, or remove {self._folder}")) from None
        whose = [_digest_of(model) for model in models]
        policy = _bytes_of(config.policy) if config.policy else b""
        made = [line for line in versions() if not line.startswith("command ")]
        self._keys = {
            task: hashlib.sha256(repr((made, whose, policy, text)).encode()).hexdigest() for task, text in manifests.items()
        }

    def read(self, task: str, suite: Suite) -> list[Row] | None:
        """The rows of a suite on a task; None where there are none that may be used."""
        try:
            stored = read_json(self._path(task, suite))
            kinds = {kind.__name__: kind for kind in suite.rows}
            return [kinds[name](**values) for name, values in stored["rows"]] if stored["key"] == self._keys[task] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, task: str, suite: Suite, rows: Sequence[Row]) -> None:
        """Keep the rows of a suite on a task, whole or not at all."""
        listed = [[type(row).__name__, asdict(row)] for row in rows]
        write_text(self._path(task, suite), json.dumps({"key": self._keys[task], "rows": listed}))

    def remove(self) -> None:
        """The run is over."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, task: str, suite: Suite) -> Path:
        return self._folder / f"{file_word(task)}-{suite.name}.json"


def _digest_of(model: Any) -> str:
    """sha256 of a model's weights, and of the file its class stands in."""
    found, inner = hashlib.sha256(), model.model
    if callable(getattr(inner, "state_dict", None)):
        for name, value in inner.state_dict().items():
            found.update(name.encode())
            found.update(value.detach().cpu().contiguous().numpy().tobytes())
    with contextlib.suppress(OSError, TypeError):  # a class without a file
        found.update(Path(inspect.getsourcefile(type(inner)) or "").read_bytes())
    return found.hexdigest()


def _bytes_of(policy: str) -> bytes:
    """sha256 of a policy: of its file, of what its run folder holds, or of the module of the user's."""
    path = Path(policy)
    if is_function_name(policy) and not path.exists():
        path = Path(import_named(policy, f"policy={policy}").__file__ or "")
    files = sorted([*path.glob("policy.*")]) if path.is_dir() else [path]
    return b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files if file.is_file())
