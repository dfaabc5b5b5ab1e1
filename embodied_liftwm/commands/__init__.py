"""One module per command, each with `run(config)`; and the loading of their configuration.

`load_config(schema, preset, words)` merges the defaults of a dataclass, one section of a preset and `key=value` words, in this
order, and returns the typed object. This package and `cli.py` are the only code that may import everything.
"""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf

from embodied_liftwm.commands.schema import Key, current_keys, field_comments, own_keys
from embodied_liftwm.config import COMMANDS, EXPERIMENTS, MOVED_KEYS
from embodied_liftwm.config.checks import check_field, shown
from embodied_liftwm.config.model import MOVED
from embodied_liftwm.errors import UserError

Schema = TypeVar("Schema")

TRUTHS = {text: value for value, words in ((True, "true yes on"), (False, "false no off"))
          for word in words.split() for text in (word, word.capitalize(), word.upper())}  # fmt: skip
"""What may be written for true and false."""
FEW_THREADS = 8
"""Threads that any machine may be asked for."""
LONGEST_NAME = 100
"""Characters of a wrong key that are looked at for what was meant."""


def load_config(schema: type[Schema], preset: str | None = None, words: Sequence[str] = ()) -> Schema:
    """Build a command's configuration.

    Args:
        schema: one of the dataclasses in `embodied_liftwm.config.COMMANDS`.
        preset: name of a file in `configs/`, or None for the defaults alone.
        words: `key=value` overrides; keys are dotted, lists are written `a,b` or `[a,b]`, and the last of several wins.

    Returns:
        A frozen `schema` object that has passed its `__post_init__` checks.

    Raises:
        UserError: unknown preset or key (the nearest real one is named), a value of the wrong type or out of bounds, a word
            without `=`.
    """
    keys = {key.name: key for key in own_keys(schema)}
    config: DictConfig = OmegaConf.structured(schema)
    _make_writable(config)
    command = command_of(schema)
    if preset is not None:
        for name, value in _preset_values(preset, schema):
            _assign(config, keys, name, value, command, where=f"preset '{preset}': ")
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise UserError(f"'{shown(word)}' is not of the form key=value{_hint(word, keys)}")
        if name not in keys:
            _refuse_others(command, name)
        _assign(config, keys, name, text, command)
    return OmegaConf.to_object(config)  # type: ignore[return-value]


def command_of(schema: type) -> str:
    """The command whose schema this is, as in `reproduce gap`; empty for none of them."""
    return next((name for name, known in COMMANDS.items() if known is schema), "")


def _refuse_others(command: str, name: str) -> None:
    """Raises UserError for a key that another experiment of `liftwm reproduce` has."""
    others = [other for other, schema in EXPERIMENTS.items() if name in {key.name for key in own_keys(schema)}]
    if command.startswith("reproduce ") and others:
        raise UserError(f"{name}: belongs to liftwm reproduce {' | '.join(others)}, not to liftwm {command}")


def check_belonging(schema: type, command: str, name: str, words: Sequence[str]) -> None:
    """Hold words against what `liftwm COMMAND NAME` uses, by what begins the comments of its keys: `gap, liftwm: ...`.

    Raises:
        UserError: a key belongs to others of the command.
    """
    owners = {key: _owners(comment) for key, comment in field_comments(schema).items()}
    known = {owner for names, _ in owners.values() for owner in names}
    for word in words if name in known else ():
        key = word.partition("=")[0]
        names, others = owners.get(key.partition(".")[0], ((), False))
        if names and (name in names) == others:
            own = [one for one in sorted(known) if (one in names) != others]
            raise UserError(f"{shown(key)}: belongs to liftwm {command} {' | '.join(own)}, not to liftwm {command} {name}")


def _owners(comment: str) -> tuple[tuple[str, ...], bool]:
    """Names that begin a comment or a part of it, none for a key of all; and whether it belongs to all but these."""
    begin = re.match(r"(all but )?((?:\w+, )*\w+): ", comment)
    if begin is None:
        return (), False
    parts = [begin[2]] if begin[1] else re.findall(r"(?:^|; )((?:\w+, )*\w+): ", comment)
    return tuple(name for part in parts for name in part.split(", ")), bool(begin[1])


def check_parts(config: Any) -> None:
    """Hold what only other packages or this machine know against every part of a configuration, before the command starts.

    Raises:
        UserError: a device that is not there, more threads than there are cores, terms that no objective has.
    """
    check_devices(config)
    for key in current_keys(config):
        leaf, most = key.name.rpartition(".")[2], max(FEW_THREADS, os.cpu_count() or 1)
        if leaf == "threads" and key.default > most:
            raise UserError(f"{key.name}={key.default}: must be at most {most} on this machine; 1 is rarely slower than 2")
        if leaf == "terms" and key.default != key.field.default:
            from embodied_liftwm.training.objective import check_terms

            check_terms(key.default, key.name)


def check_devices(config: Any) -> None:
    """Try every `device` of a configuration before the command starts; torch is imported only for one that is not the CPU.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    for key in current_keys(config):
        if key.name.rpartition(".")[2] != "device" or key.default == "cpu":
            continue
        import torch

        try:
            if not re.fullmatch(r"cuda(:\d{1,4})?", key.default):
                raise RuntimeError("no GPU by that name")
            torch.empty(0, device=key.default)
        except (RuntimeError, AssertionError) as error:
            usable = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
            reason = f"not usable here ({_first_line(error)[:80]}); usable: {', '.join(usable)}"
            raise UserError(f"{key.name}={shown(key.default)}: {reason}") from error


def preset_folder() -> Path:
    """Where the YAML presets are: inside the installed package, else in the source checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def preset_names() -> list[str]:
    """Names that `--preset` accepts."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


class _Texts(yaml.SafeLoader):
    """Every value as text, as on the command line; sections may share lines by `<<: *anchor`."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}


def _preset_values(preset: str, schema: type) -> list[tuple[str, Any]]:
    """Dotted keys and values of one command's section of a preset; empty where the preset changes nothing."""
    path = preset_folder() / f"{preset}.yaml"
    if preset not in preset_names():
        raise UserError(f"unknown preset '{preset}': there are {', '.join(preset_names())} in {preset_folder()}")
    try:
        sections = yaml.load(path.read_text(), _Texts) or {}
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"preset {path} is not valid YAML: {_first_line(error)}") from error
    if not isinstance(sections, dict):
        raise UserError(f"preset {path}: expected sections, one a command, such as train:")
    unknown = sorted(set(sections) - set(COMMANDS))
    if unknown:
        raise UserError(f"preset {path}: unknown section '{unknown[0]}'{_nearest(unknown[0], COMMANDS)}")
    command = command_of(schema)
    section = sections.get(command) or {}
    if not isinstance(section, dict):
        raise UserError(f"preset {path}: section '{command}' holds no key: value lines")
    return _flatten(section)


def _flatten(section: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in section.items():
        found += _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found


def _assign(config: DictConfig, keys: dict[str, Key], name: str, given: str | list[Any], command: str, where: str = "") -> None:
    """Set one key to what was written for it, or say what is wrong."""
    if name not in keys:
        members = [key for key in keys if key.startswith(f"{name}.")]
        if members:
            raise UserError(f"{where}'{name}' is a group of keys: set one of them, such as {members[0]}=VALUE")
        raise UserError(f"{where}unknown key '{shown(name)}'{_moved(name, keys, command) or _nearest(name, keys)}")
    try:
        OmegaConf.update(config, name, read_value(keys[name], given))
    except UserError as error:
        raise UserError(f"{where}{error}") from None


def read_value(key: Key, given: str | list[Any]) -> Any:
    """What was written for a key, as a value of its type.

    Raises:
        UserError: it is of another type, out of bounds, or text that no path or name can hold.
    """
    try:
        value = _parse(given, key.type)
    except ValueError:
        raise UserError(f"{key.name}={shown(given)}: expected {key.type_text}") from None
    texts = [item for item in (value if isinstance(value, tuple) else [value]) if isinstance(item, str)]
    if any("${" in text or text == "???" for text in texts):
        raise UserError(f"{key.name}={shown(given)}: is taken as it stands, nothing is filled in: write the value itself")
    check_field(key.field, key.name, value)
    return value


def _parse(given: str | list[Any], kind: Any) -> Any:
    """What was written, as a value of an annotation.

    Raises:
        ValueError: it is none.
    """
    if get_origin(kind) is tuple:
        return tuple(_parse(item, get_args(kind)[0]) for item in (_items(given) if isinstance(given, str) else given))
    if not isinstance(given, str):
        raise ValueError
    if kind is str:
        return given
    if get_origin(kind) is UnionType:
        try:
            return _parse(given, get_args(kind)[0])
        except ValueError:
            return _parse(given, get_args(kind)[1])
    choices = TRUTHS if kind is bool else {str(choice): choice for choice in get_args(kind)}  # of a Literal
    text = given.strip()
    if not choices:
        return kind(text)
    if text not in choices:
        raise ValueError
    return choices[text]


def _items(text: str) -> list[str]:
    """The items of `a,b` or `[a, b]`, whose brackets are the only ones in it; quotes around an item are dropped."""
    inner = text[1:-1]
    if text.startswith("[") and text.endswith("]") and not set("[]") & set(inner):
        text = inner
    items = (item.strip() for item in text.split(","))
    return [item[1:-1] if item[0] == item[-1] and item[0] in "'\"" else item for item in items if item]


def _hint(word: str, keys: dict[str, Key]) -> str:
    """What is probably meant by a word that is no pair, for the end of a line; empty where nobody knows."""
    name = re.split(r"[:\s]", word.strip(), maxsplit=1)[0]
    if unicodedata.category(word[:1] or " ") in ("Pd", "Sm") and word[0] not in "-=":
        return ": a dash pasted from a page; options are written with two hyphens, --preset NAME"
    return f": write {name}=VALUE, without spaces" if name in keys else ""


def _moved(name: str, keys: dict[str, Key], command: str) -> str:
    """What serves in place of a key that a command had, for the end of a line; empty where nobody had it."""
    group, _, leaf = name.rpartition(".")
    if f"{group}.{MOVED.get(leaf)}" in keys:
        return f": is now {group}.{MOVED[leaf]}"
    for (of, old), now in MOVED_KEYS.items():
        if of == command and (name == old or name.startswith(f"{old}.")):
            return f": {now}{name.removeprefix(old)}"
    return ""


def _nearest(name: str, known: Any) -> str:
    """`: did you mean 'episodes'?`, or nothing where no name is near."""
    name = name[:LONGEST_NAME].strip(" .-").lower()
    leaves = {key.rpartition(".")[2]: key for key in reversed(list(known))}
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    if not close:
        close = [leaves[leaf] for leaf in difflib.get_close_matches(name.rpartition(".")[2], list(leaves), 1, 0.75)]
    if close:
        return f": did you mean '{close[0]}'?"
    return f": known are {', '.join(known)}" if len(known) <= 16 else "; --help lists the keys"


def _make_writable(config: DictConfig) -> None:
    """Frozen dataclasses give read-only nodes; the overrides still have to be written into them."""
    OmegaConf.set_readonly(config, False)
    for name in config:
        child = config._get_node(name)
        if isinstance(child, DictConfig):
            _make_writable(child)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
