"""Bounds beside the fields, and the checks that the schemas share.

A number is written `steps: int = bounded(96, 1, 100_000)`: its default, the least and the most that it may be, both allowed.
Every schema calls `check_fields` first in its `__post_init__`; help and `docs/config.md` show the same bounds.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Collection
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from embodied_liftwm.errors import UserError

Value = TypeVar("Value")

LAST_SEED = 2**30 - 1
"""Seeds stay below those of evaluation, `EVAL_SEED_OFFSET`."""
MOST_PROCESSES = MOST_THREADS = 256
"""As many as the largest machines have cores; what this machine has is checked when a command starts."""
LONGEST_TEXT = 4096
"""Characters of a path or another text."""
SHOWN_TEXT = 80
"""Characters of a value that a message repeats."""


@dataclass(frozen=True)
class Bounds:
    """The least and the most a number may be; a list has them for each of its items."""

    least: float
    most: float
    above: bool = False  # the number must be above the least, which is not allowed itself

    def __str__(self) -> str:
        """As help shows them: `1 to 100000`."""
        return f"{'above ' if self.above else ''}{plain(self.least)} to {plain(self.most)}"

    def check(self, name: str, value: Any) -> None:
        """Raises UserError for a number outside."""
        if not math.isfinite(value):
            raise UserError(f"{name}={value}: must be a finite number, {self}")
        if value < self.least or (self.above and value == self.least):
            raise UserError(f"{name}={value}: must be {'above' if self.above else 'at least'} {plain(self.least)}")
        if value > self.most:
            raise UserError(f"{name}={shown(value)}: must be at most {plain(self.most)}")


def bounded(default: Value, least: float, most: float, above: bool = False) -> Value:
    """A field whose number, or each of whose numbers, is in [least, most]; with `above` the least itself is left out."""
    return field(default=default, metadata={"bounds": Bounds(least, most, above)})


def may_be_empty(default: str) -> str:
    """A text that has a default and may be emptied all the same."""
    return field(default=default, metadata={"empty": True})


def check_fields(config: Any, prefix: str = "") -> None:
    """Check numbers against their bounds, and texts for what no path or name can hold.

    Args:
        config: an instance of a schema.
        prefix: what stands before its keys where it is a part of a command's, such as `model.`.

    Raises:
        UserError: the first field that is wrong.
    """
    for known in fields(config):
        check_field(known, prefix + known.name, getattr(config, known.name))


def check_field(known: Field[Any], name: str, value: Any) -> None:
    """Check one value of a field, under the name that its user knows it by.

    Raises:
        UserError: a number out of bounds or of another type, an empty text, one with control characters.
    """
    bounds = known.metadata.get("bounds")
    for item in value if isinstance(value, tuple | list) else (value,):
        word = isinstance(item, str) and str(known.type).endswith("| str")  # its schema knows what it stands for
        if bounds is not None and not word:
            _check_number(known, name, item)
            bounds.check(name, item)
        elif isinstance(item, str):
            in_list, empty = isinstance(value, tuple | list), known.metadata.get("empty") or known.default == ""
            check_text(name, item, may_be_empty=bool(empty) and not in_list)


def _check_number(known: Field[Any], name: str, value: Any) -> None:
    default = next(iter(known.default), 0.0) if isinstance(known.default, tuple) else known.default
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise UserError(f"{name}={shown(value)}: expected {'a whole number' if whole else 'a number'}")


def check_text(name: str, text: str, may_be_empty: bool = False) -> None:
    """Raises UserError for text that is empty, too long, or holds what no path, name or line of a report can."""
    if not text.strip() and not may_be_empty:
        raise UserError(f"{name}= is empty")
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{name}={shown(text)}: must be at most {LONGEST_TEXT} characters, has {len(text)}")
    odd = next((c for c in text if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")), None)
    if odd is not None:
        raise UserError(f"{name}={shown(text)}: must not hold the control character {odd!a}")


def distinct(name: str, values: Collection[object], what: str, least: int = 1) -> None:
    """Raises UserError for a list with repeated items, or with fewer than `least`; `what` says what is expected."""
    if len(values) < least or len(set(values)) < len(values):
        raise UserError(f"{name}={shown(str(list(values)))}: expected distinct {what}")


def shown(value: object) -> str:
    """A value as a message repeats it: on one line, of printable characters, cut where it is long."""
    if isinstance(value, list | tuple):
        value = "[" + ", ".join(map(shown, value)) + "]"
    text = str(value) if not isinstance(value, int) or abs(value) < 10**SHOWN_TEXT else "a number of too many digits"
    return printable(text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}...")


def printable(text: str) -> str:
    """Text as a terminal may be given it: control characters and what no encoding has are written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def plain(number: float) -> str:
    """A bound as it would be typed."""
    return str(number) if isinstance(number, int) else f"{number:g}"
