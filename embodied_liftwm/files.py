"""Files and folders that are written whole or not at all, the one line that says why a disk would not take them, and JSON that
anyone may have written.

Everything is written under a temporary name beside its place, flushed to the disk and renamed, so that a kill, a full disk or
a folder that cannot be written leaves what was there before. Temporary names begin with `.partial-`; those of killed
processes go at the next `remove_partials` of the process that holds the folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from embodied_liftwm.errors import UserError

PARTIAL = ".partial-"
SUMS = "SHA256SUMS"
"""Beside files that must not change: the SHA-256 of each. `sha256sum -c SHA256SUMS` agrees."""
_AGAIN = "free some space and run the same command again, what was finished is kept"
_REASONS = {
    errno.ENOSPC: f"the disk is full: {_AGAIN}",
    errno.EDQUOT: f"your disk quota is used up: {_AGAIN}",
    errno.EFBIG: "a file would be larger than your limit (ulimit -f) or this disk allows",
    errno.EACCES: "the folder cannot be written: choose another",
    errno.EPERM: "the folder cannot be written: choose another",
    errno.EROFS: "the folder is on a read-only disk: choose another",
    errno.EEXIST: "a file stands where a folder should be: choose another",
    errno.ENOTDIR: "a file stands where a folder should be: choose another",
    errno.EISDIR: "a folder stands where a file should be: choose another",
}


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it there when the block ends well, remove it when it does not.

    The temporary name keeps the suffix, since many writers choose their format by it. Missing folders are made.

    Raises:
        UserError: the disk is full, or the folder cannot be written.

    Example:
        >>> with whole_file("metrics.json") as partial:                # doctest: +SKIP
        ...     partial.write_text("{}")
    """
    path = Path(path)
    partial = _beside(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            _flush(partial)
            os.replace(partial, path)
    finally:
        _remove(partial)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """`whole_file` for a new folder of files: where there is one already, that is an error.

    Raises:
        UserError: the disk is full, or the folder around it cannot be written.
    """
    path = Path(path)
    partial = _beside(path)
    try:
        with disk_errors(path):
            partial.mkdir(parents=True)
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    _flush(file)
            os.replace(partial, path)
    finally:
        _remove(partial)


def remove_folder(path: Path) -> None:
    """Remove a folder, its name first, so that nobody ever sees half of it."""
    doomed = _beside(path)
    with disk_errors(path):
        os.replace(path, doomed)
    _remove(doomed)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all. Raises UserError as `whole_file` does."""
    with whole_file(path) as partial:
        partial.write_text(text)


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Write a binary file whole or not at all. Raises UserError as `whole_file` does."""
    with whole_file(path) as partial:
        partial.write_bytes(content)


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        UserError: the file cannot be read, or is not JSON in UTF-8.
        FileNotFoundError, NotADirectoryError: there is none.
    """
    try:
        content = Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_json(content, path)


def parse_json(content: str | bytes, where: str | Path) -> Any:
    """What JSON text says.

    Args:
        content: text, or UTF-8.
        where: it comes from, for the message.

    Raises:
        UserError: it is not UTF-8, not JSON, or nested too deep; says where in it.
    """
    try:
        return json.loads(content.decode() if isinstance(content, bytes) else content)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is no UTF-8"
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno} is no JSON ({error.msg})"
    except RecursionError:
        reason = "it is nested too deep"
    except ValueError:
        reason = "it is no JSON (a number of thousands of digits)"
    raise UserError(f"{where} cannot be read: {reason}; restore it")


def write_sums(folder: Path) -> None:
    """Record what the files of a folder hold, but for its card, which may be written anew."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    (folder / SUMS).write_text("".join(f"{_digest(folder / name)}  {name}\n" for name in names))


def check_sum(path: Path) -> None:
    """Hold a file against the record beside it; in folders of older versions there is none.

    Raises:
        UserError: the file is not the one that was recorded, or the record is damaged.
    """
    record = path.with_name(SUMS)
    try:
        lines = record.read_text().splitlines()
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{record} cannot be read: {error}; restore it") from None
    recorded = [digest for digest, _, name in (line.partition("  ") for line in lines) if name == path.name]
    if len(recorded) != 1:
        raise UserError(f"{record} has {len(recorded)} lines about {path.name}, expected one: restore it")
    if recorded[0] != _digest(path):
        raise UserError(f"{path} is not the file that {SUMS} beside it lists: restore it, or remove {SUMS} if you changed it")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(path: str | Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into a UserError about `path`; other errors pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = errno_of(error)
        if number is None:
            raise
        raise UserError(f"cannot write {path}: {_REASONS.get(number, os.strerror(number))}") from error


def errno_of(error: BaseException) -> int | None:
    """The system's number of an error; libraries that write by themselves put it into their text only. None if it has none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"\b(?:errno = |os error )(\d+)", str(error))  # HDF5, safetensors
    return int(told.group(1)) if told else None


def remove_partials(folder: str | Path) -> None:
    """Remove what writers that were killed left in a folder that this process holds, before it writes there itself.

    Whose name a temporary file has is not asked: the holder writes alone, and of a process that has just been killed the
    system still says for a moment that it is there.
    """
    for path in Path(folder).glob(f"{PARTIAL}*"):
        _remove(path)


def _beside(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")


def _flush(path: Path) -> None:
    """Have the system put a file on the disk before its name says that it is there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    """Remove a file or folder if it is there and we may."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
