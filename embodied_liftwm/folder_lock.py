"""Who may write a folder: one process, and the workers it has. The system releases the locks of a process that dies.

    FOLDER/.lock            held by the command that writes there; its text says which process that is, or was last
    FOLDER/.lock-workers    held by each worker of a collection

Both files may stay: what is left of them stops nobody.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import disk_errors

LAST_S = 60.0
"""Workers of a collection that was killed are gone after this: on one machine at once, with Ray in seconds."""
_held: set[tuple[int, int, int]] = set()
"""Locks of this process, not of those it was forked from: its id, and the device and inode of the file."""


@contextmanager
def held(folder: Path, key: str = "out=") -> Iterator[bool]:
    """Make the folder and hold it for this process, as long as the block lasts.

    Args:
        folder: which is made.
        key: the word by which the user could choose another folder.

    Yields:
        Whether nobody held it. False inside a block of this process that holds it already.

    Raises:
        UserError: another process holds it.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+")
    with lock:
        status = os.fstat(lock.fileno())
        mine = (os.getpid(), status.st_dev, status.st_ino)
        if mine in _held:
            yield False
            return
        if not _lock(lock, fcntl.LOCK_EX):
            raise UserError(f"another process{_holder(lock)} holds {folder}: wait for it to finish, or choose another {key}")
        with suppress(OSError):  # a full disk: then it has no name
            lock.truncate(0)
            lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
            lock.flush()
        _held.add(mine)
        try:
            yield True
        finally:
            _held.discard(mine)


@contextmanager
def held_for_workers(folder: Path) -> Iterator[None]:
    """Make the folder and hold it for a collection, once no worker of an earlier one is left.

    Raises:
        UserError: another process holds it, or workers of one stay.
    """
    with held(folder):
        _wait_for_workers(folder)
        yield


def join(folder: Path) -> IO[Any]:
    """Hold the folder as a worker, beside others, until the returned file is closed or this process ends."""
    lock = (folder / ".lock-workers").open("w")
    _lock(lock, fcntl.LOCK_SH)
    return lock


def _wait_for_workers(folder: Path) -> None:
    with disk_errors(folder):
        lock = (folder / ".lock-workers").open("w")
    give_up = time.monotonic() + LAST_S
    with lock:
        while not _lock(lock, fcntl.LOCK_EX):
            if time.monotonic() > give_up:
                raise UserError(f"workers of an earlier collection still write {folder}: end them, or choose another out=")
            time.sleep(0.05)


def _holder(lock: IO[Any]) -> str:
    """Who holds a lock, as far as its file says."""
    for _ in range(2):
        with suppress(OSError, ValueError):
            lock.seek(0)
            told = lock.read(200).strip()
            if told.startswith("pid "):
                return f" ({told})"
        time.sleep(0.1)  # it has just been taken
    return ""


def _lock(file: IO[Any], kind: int) -> bool:
    """Whether we have the lock now. Where the disk knows no locks, we do, and the user must see to it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(f"warning: {file.name} cannot be locked ({error.strerror}): let no other process write there", file=sys.stderr)
    return True
