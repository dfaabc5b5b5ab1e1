"""Frozen lists of evaluation episodes, each with a hash of what it must be: the manifests of the permanence benchmark.

    embodied_liftwm/evaluation/manifests/permanence-Revisit-S.json    one task
    embodied_liftwm/evaluation/manifests/SHA256SUMS                   of each file; `sha256sum -c SHA256SUMS` agrees

A manifest is canonical JSON, a line for each episode: the environment and its options; the seeds that are kept, each with the
sha256 of its scene, of the tour's poses and of what is called (rounded to a millimetre, no pixels: renderers differ); the seeds
that were removed, with the reason; and eight digits of a hash for every entry, so that a changed byte can be told from where it
is. Manifests are made by a command, never by hand:

    python -m embodied_liftwm.evaluation.permanence.manifest make Revisit-S Occlusion-M
    python -m embodied_liftwm.evaluation.permanence.manifest check

`make` drives the tour of one seed after another, and the scripted oracle's way after it, until so many episodes are kept;
seeds that memory cannot solve, that are solved where they start, or that the oracle itself fails, are listed as removed.
`check` drives every tour again and compares.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import embodied_liftwm
from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions, present_words
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.guided import Guide, Guided, task_id
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.files import read_json, write_text

FOLDER: Path = Path(__file__).resolve().parents[1] / "manifests"
"""The manifests that ship with the package."""
SUMS: str = "SHA256SUMS"
FIRST_SEED: int = EVAL_SEED_OFFSET + 2**25
"""Seeds of the benchmark begin here: beyond those of datasets and of navigation, and nothing is tuned on them."""
FORMAT = 1
EPISODES = 100
"""Kept in each manifest, unless asked otherwise."""
MOST_TRIED = 3
"""Times as many seeds are tried before the task is given up."""
_HEADER = ("format", "env", "options", "first_seed", "versions")
_FIELDS = (*_HEADER, "episodes", "removed", "checks")


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
class Manifest:
    """The episodes of one task."""

    env: str  # Gymnasium id
    options: EnvOptions
    first_seed: int
    versions: dict[str, str]  # of what drew the scenes
    episodes: tuple[Frozen, ...]
    removed: tuple[Removed, ...]

    @property
    def task(self) -> str:
        """ "Revisit-S"."""
        return self.env.removeprefix("liftwm/").removesuffix("-v0")

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
        lists = {name: [_checked(asdict(entry)) for entry in getattr(self, name)] for name in ("episodes", "removed")}
        return _canonical(header | lists | {"checks": {name: _short(value) for name, value in header.items()}})


def _frozen_words(options: EnvOptions) -> dict[str, Any]:
    """Options as manifests of this format have them, whose hashes are frozen: the body `wheels` is called `base` there."""
    return options.keywords() | ({"embodiment": "base"} if options.embodiment == "wheels" else {})


def file_name(task: str) -> str:
    """Of a task's manifest."""
    return f"permanence-{task}.json"


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
    for name in sorted(set(_FIELDS) ^ set(data)):
        raise UserError(f"{path} {'lacks' if name in _FIELDS else 'has an unknown'} field '{name}': restore the file")
    return text, data


def _check_entries(path: Path, data: dict[str, Any]) -> None:
    """Name the first entry whose digits do not agree with it."""
    checks = data["checks"] if isinstance(data["checks"], dict) else {}
    for name in _HEADER:
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
        return Manifest(*header, entries("episodes", Frozen), entries("removed", Removed))
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


def make_manifest(task: str, options: EnvOptions, episodes: int = EPISODES, first_seed: int = FIRST_SEED) -> Manifest:
    """Drive tours from `first_seed` on until `episodes` are kept.

    Raises:
        UserError: no such task, or too few of its scenes test memory.
    """
    guide, kept, removed = Guide(task, options), list[Frozen](), list[Removed]()
    with progress(f"episodes of {task}", episodes) as advance:
        for seed in range(first_seed, first_seed + MOST_TRIED * episodes):
            if len(kept) == episodes:
                break
            guided = guide.record(seed)
            if guided.removed:
                removed.append(Removed(seed, guided.removed))
                continue
            kept.append(Frozen(seed, guided.fingerprint()))
            advance(1)
    guide.close()
    if len(kept) < episodes:
        raise UserError(f"{task}: only {len(kept)} of {MOST_TRIED * episodes} seeds test memory, {episodes} were asked for")
    return Manifest(task_id(task), options, first_seed, _versions(), tuple(kept), tuple(removed))


def write_manifest(manifest: Manifest, folder: Path = FOLDER) -> Path:
    """Write it, and its line of SHA256SUMS; each file whole or not at all."""
    path = folder / file_name(manifest.task)
    write_text(path, manifest.text())
    sums = read_sums(folder) | {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    write_text(folder / SUMS, "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)))
    return path


def check_manifest(manifest: Manifest) -> None:
    """Drive every tour again. Raises UserError for the first that is not as frozen, or no longer tests memory."""
    guide = Guide(manifest.task, manifest.options)
    with progress(f"episodes of {manifest.task}", len(manifest.episodes)) as advance:
        for frozen in manifest.episodes:
            guided = guide.record(frozen.seed)
            manifest.verify(guided)
            if guided.removed:
                raise UserError(f"{manifest.task}, seed {frozen.seed}: {guided.removed}")
            advance(1)
    guide.close()


def _versions() -> dict[str, str]:
    names = ("numpy", "mujoco")
    return {"embodied_liftwm": embodied_liftwm.__version__} | {name: importlib.metadata.version(name) for name in names}


def main(words: Sequence[str] | None = None) -> int:
    """The command."""
    asked = _arguments().parse_args(words)
    folder = Path(asked.out)
    try:
        for task in asked.tasks or known_tasks(folder):
            if asked.what == "make":
                made = make_manifest(task, EnvOptions(image_size=asked.image_size), asked.episodes, asked.first_seed)
                path, counted = write_manifest(made, folder), len(made.episodes)
            else:
                made = load_manifest(task, folder)
                check_manifest(made)
                path, counted = folder / file_name(task), len(made.episodes)
            removed = ", ".join(f"{count} {reason}" for reason, count in made.reasons.items()) or "none"
            print(f"{path}: {counted} episodes; removed: {removed}")
    except UserError as error:
        print(f"manifest: {error}", file=sys.stderr)
        return 2
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m embodied_liftwm.evaluation.permanence.manifest", description=__doc__)
    parser.add_argument("what", choices=("make", "check"))
    parser.add_argument("tasks", nargs="*", help="such as Revisit-S; check: all that there are by default")
    parser.add_argument("--episodes", type=int, default=EPISODES, help=f"to keep ({EPISODES})")
    parser.add_argument("--first-seed", type=_seed, default=FIRST_SEED, help="an evaluation seed; the benchmark's by default")
    parser.add_argument("--image-size", type=int, default=EnvOptions().image_size, help="pixels")
    parser.add_argument("--out", default=str(FOLDER), help="folder; that of the package by default")
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if not EVAL_SEED_OFFSET <= seed < 2 * EVAL_SEED_OFFSET:
        raise argparse.ArgumentTypeError(f"{seed}: evaluation seeds are in [{EVAL_SEED_OFFSET}, {2 * EVAL_SEED_OFFSET})")
    return seed


if __name__ == "__main__":
    raise SystemExit(main())
