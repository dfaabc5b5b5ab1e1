"""Rows of a dataclass of numbers and words as CSV files."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import write_text

Row = TypeVar("Row")
NUMBERS = "tuple[float, ...]"
"""Type of a column that holds several numbers, separated by spaces."""
KINDS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    NUMBERS: lambda cell: tuple(float(number) for number in cell.split()),
}


def plain(value: Any) -> Any:
    """A value as a cell: a tuple of numbers becomes one text, anything else is left as it is."""
    return " ".join(f"{number:.6g}" for number in value) if isinstance(value, tuple) else value


def write_rows(path: Path, rows: Sequence[Any], schema: type | None = None) -> None:
    """Rows of one dataclass, whole or not at all; `schema` names it where there may be none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(schema or rows[0])])
    writer.writerows([f"{v:.6g}" if isinstance(v, float) else plain(v) for v in asdict(row).values()] for row in rows)
    write_text(path, text.getvalue())


def write_mixed(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One table of all suites: columns in order of appearance, empty where a suite has no such column."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns or ["suite"])
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_rows(path: Path, schema: type[Row]) -> list[Row]:
    """What `write_rows` wrote. A column that is not there gets its default.

    Raises:
        UserError: the file is damaged, or of another schema.
    """
    named: Any = schema
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            return [schema(**{f.name: _value(f, row) for f in fields(named)}) for row in reader]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): remove it, and its model is judged again") from None


def _value(field: Field[Any], row: dict[str, str]) -> Any:
    if field.name not in row and field.default is not MISSING:
        return field.default
    return KINDS[str(field.type)](row[field.name])
