"""Frozen lists of evaluation episodes, each with a hash of what it must be: the manifests of the permanence benchmark.

    embodied_liftwm/evaluation/manifests/permanence-Revisit-S.json    one task
    embodied_liftwm/evaluation/manifests/SHA256SUMS                   of each file; `sha256sum -c SHA256SUMS` agrees

A manifest is canonical JSON, a line for each episode: the environment and its options; the seeds that are kept, each with the
sha256 of its scene, of the tour's poses and of what is called (rounded to a millimetre, no pixels: renderers differ); the seeds
that were removed, with the reason; and eight digits of a hash for every entry, so that a changed byte can be told from where it
is. Manifests are made by a command, never by hand:

    liftwm manifest make env=Revisit-S,Occlusion-M                  manifests/permanence-*.json
    liftwm manifest make env=miniworld:FourRooms tour_steps=200     of a world that is none of ours
    liftwm manifest check

A manifest of a world that is none of ours holds in addition who walks through it before its task begins (`tour`), and what it
tells (`knows`): arrays of truth, `success`, `goal`, and how far it is. What the benchmark cannot ask is left out, and named.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embodied_liftwm.config import EnvOptions, EvaluateConfig, present_words
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.left_out import TRUTHS
from embodied_liftwm.evaluation.navigation.explored import GOAL, LEFT, SHORTEST, SUCCESS, ExploredGuide
from embodied_liftwm.evaluation.navigation.guided import Guide, Guided
from embodied_liftwm.files import read_json, write_text

FOLDER: Path = Path(__file__).resolve().parents[1] / "manifests"
"""The manifests that ship with the package."""
SUMS: str = "SHA256SUMS"
FORMAT = 1
OURS = "liftwm/"
EVERYTHING = (*TRUTHS, SUCCESS, GOAL, SHORTEST, LEFT)
"""What ours tell."""
_HEADER = ("format", "env", "options", "first_seed", "versions")
_FOREIGN = ("tour", "knows")


@dataclass(frozen=True)
class Frozen:
    """One episode of a manifest."""

    seed: int
    sha256: str  # `Guided.fingerprint`


@dataclass(frozen=True)
class Removed:
    """A seed that tests no memory."""

    seed: int
    reason: str


@dataclass(frozen=True)
class Tour:
    """Who walks through a world that is none of ours before its task begins, and how long the task may take."""

    tour: str = "wander"  # or my_policy:make_policy
    tour_steps: int = 200
    max_steps: int = 500


@dataclass(frozen=True)
class Manifest:
    """The episodes of one task."""

    env: str  # Gymnasium id of ours, or how anybody's environment is called
    options: EnvOptions
    first_seed: int
    versions: dict[str, str]  # of what drew the scenes
    episodes: tuple[Frozen, ...]
    removed: tuple[Removed, ...]
    tour: Tour = Tour()  # not of ours
    knows: tuple[str, ...] = EVERYTHING  # arrays of truth, `success`, `goal`, `shortest_path_m`, `distance_to_goal`

    @property
    def ours(self) -> bool:
        """Whether it is a task of liftwm_envs."""
        return self.env.startswith(OURS)

    @property
    def task(self) -> str:
        """ "Revisit-S", or the name of anybody's environment."""
        return self.env.removeprefix(OURS).removesuffix("-v0") if self.ours else self.env

    def setting(self, config: EvaluateConfig) -> EvaluateConfig:
        """A configuration with this task, under its options."""
        return replace(config, env=self.task, env_options=self.options, **({} if self.ours else asdict(self.tour)))

    def guide(self) -> Guide | ExploredGuide:
        """Who drives its tours. Raises UserError where the environment is not there."""
        return guide_of(self.env, self.options, self.tour)

    @property
    def seeds(self) -> list[int]:
        """Of the episodes, in order."""
        return [episode.seed for episode in self.episodes]

    @property
    def reasons(self) -> dict[str, int]:
        """How many seeds were removed, by reason."""
        reasons = [entry.reason for entry in self.removed]
        return {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}

    def verify(self, guided: Guided) -> None:
        """Raise UserError unless a recorded tour is the one that was frozen under its seed."""
        wanted = {episode.seed: episode.sha256 for episode in self.episodes}.get(guided.seed)
        found = guided.fingerprint()
        if wanted != found:
            made = ", ".join(f"{name} {version}" for name, version in self.versions.items())
            raise UserError(
                f"{self.task}, seed {guided.seed}: its scene and tour hash to {found[:12]}, the manifest has "
                f"{(wanted or 'none')[:12]}; it was made with {made}: another version, or the environment was changed"
            )

    def text(self) -> str:
        """The file: canonical, so that equal manifests are equal bytes."""
        header: dict[str, Any] = {
            "format": FORMAT, "env": self.env, "options": _frozen_words(self.options),
            "first_seed": self.first_seed, "versions": self.versions,
        }  # fmt: skip
        header |= {} if self.ours else {"tour": asdict(self.tour), "knows": list(self.knows)}
        lists = {name: [_checked(asdict(entry)) for entry in getattr(self, name)] for name in ("episodes", "removed")}
        return _canonical(header | lists | {"checks": {name: _short(value) for name, value in header.items()}})


def _frozen_words(options: EnvOptions) -> dict[str, Any]:
    """Options as manifests of this format have them, whose hashes are frozen: the body `wheels` is called `base` there."""
    return options.keywords() | ({"embodiment": "base"} if options.embodiment == "wheels" else {})


def guide_of(env: str, options: EnvOptions, tour: Tour) -> Guide | ExploredGuide:
    """Who drives the tours of an environment: a Gymnasium id of ours, or anybody's name."""
    if env.startswith(OURS):
        return Guide(env.removeprefix(OURS).removesuffix("-v0"), options)
    return ExploredGuide(env, options, **asdict(tour))


def file_word(task: str) -> str:
    """A task in the name of a file."""
    return re.sub(r"[^\w.+-]", "-", task)


def file_name(task: str) -> str:
    """Of a task's manifest."""
    return f"permanence-{file_word(task)}.json"


def known_tasks(folder: Path = FOLDER) -> list[str]:
    """Tasks that have a manifest."""
    return sorted(path.stem.removeprefix("permanence-") for path in folder.glob("permanence-*.json"))


def folder_of(config_value: str) -> Path:
    """Where manifests are looked for: the folder named in a configuration, else the one that ships."""
    return Path(config_value) if config_value else FOLDER


def load_manifest(task: str, folder: Path = FOLDER) -> Manifest:
    """Read a manifest and check every byte of it.

    Raises:
        UserError: the task has none (those that have one are named), or the file is not what was frozen, and where.
    """
    path = folder / file_name(task)
    if not path.is_file():
        known = ", ".join(known_tasks(folder)) or "none"
        raise UserError(f"task {task} has no manifest in {folder}; these have: {known}")
    text, data = _read(path)
    _check_entries(path, data)
    manifest = _parse(path, data)
    if manifest.text() != text:
        raise UserError(f"{path} was changed at {_first_difference(text, manifest.text())}: restore the file")
    wanted = read_sums(folder).get(path.name)
    if wanted != hashlib.sha256(text.encode()).hexdigest():
        raise UserError(f"{path} is not the file that {SUMS} beside it lists: one of the two was replaced")
    return manifest


def read_sums(folder: Path) -> dict[str, str]:
    """File name -> sha256 as SHA256SUMS lists them; empty without one."""
    path = folder / SUMS
    try:
        lines = path.read_bytes().decode().splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: byte {error.start} is no UTF-8; restore it") from None
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    data = read_json(path)
    text = path.read_bytes().decode()
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, got a {type(data).__name__}")
    fields = (*_header_of(data), "episodes", "removed", "checks")
    for name in sorted(set(fields) ^ set(data)):
        raise UserError(f"{path} {'lacks' if name in fields else 'has an unknown'} field '{name}': restore the file")
    return text, data


def _header_of(data: dict[str, Any]) -> tuple[str, ...]:
    return _HEADER if str(data.get("env", OURS)).startswith(OURS) else (*_HEADER, *_FOREIGN)


def _check_entries(path: Path, data: dict[str, Any]) -> None:
    """Name the first entry whose digits do not agree with it."""
    checks = data["checks"] if isinstance(data["checks"], dict) else {}
    for name in _header_of(data):
        if checks.get(name) != _short(data[name]):
            raise UserError(f"{path} was changed in field '{name}', or in its check: restore the file")
    for name in ("episodes", "removed"):
        entries = data[name] if isinstance(data[name], list) else []
        for index, entry in enumerate(entries):
            known = dict(entry) if isinstance(entry, dict) else {}
            if known.pop("check", None) != _short(known):
                raise UserError(f"{path} was changed in entry {index} of '{name}' (seed {known.get('seed')}): restore the file")


def _parse(path: Path, data: dict[str, Any]) -> Manifest:
    def entries(name: str, kind: Any) -> tuple[Any, ...]:
        return tuple(kind(**{key: value for key, value in entry.items() if key != "check"}) for entry in data[name])

    try:
        if data["format"] != FORMAT:
            raise UserError(f"{path} has format {data['format']}, this version reads {FORMAT}")
        header = data["env"], EnvOptions(**present_words(data["options"])), int(data["first_seed"]), dict(data["versions"])
        foreign = (Tour(**data["tour"]), tuple(data["knows"])) if "tour" in data else ()
        return Manifest(*header, entries("episodes", Frozen), entries("removed", Removed), *foreign)
    except (TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is no manifest of this version ({error})") from None


def _canonical(data: dict[str, Any]) -> str:
    """JSON with a line for each field, and for each entry of a list."""

    def shown(value: Any) -> str:
        if isinstance(value, list) and value:
            return "[\n  " + ",\n  ".join(_compact(entry) for entry in value) + "\n ]"
        return _compact(value)

    return "{\n " + ",\n ".join(f"{json.dumps(name)}: {shown(value)}" for name, value in data.items()) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _short(value: Any) -> str:
    return hashlib.sha256(_compact(value).encode()).hexdigest()[:8]


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    return entry | {"check": _short(entry)}


def _first_difference(text: str, wanted: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, wanted, strict=False)) if a != b), min(len(text), len(wanted)))
    line = text.count("\n", 0, at)
    return f"line {line + 1}, column {at - (text.rfind(chr(10), 0, at) + 1) + 1}"


def write_manifest(manifest: Manifest, folder: Path = FOLDER) -> Path:
    """Write it, and its line of SHA256SUMS; each file whole or not at all."""
    path = folder / file_name(manifest.task)
    write_text(path, manifest.text())
    sums = read_sums(folder) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    return path
