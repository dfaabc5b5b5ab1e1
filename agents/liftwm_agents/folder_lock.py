"""Who may write a dataset folder: one collection and its workers. The system releases the locks of a process that dies."""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import disk_errors

LAST_S = 60.0
"""Workers of a collection that was killed are gone after this: on one machine at once, with Ray in seconds."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder and hold it for a collection, once no worker of an earlier one is left.

    Raises:
        UserError: another collection holds it, or workers of one stay.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    with lock:
        if not _lock(lock, fcntl.LOCK_EX):
            raise UserError(f"another collection is writing {folder}: wait for it to finish, or choose another out=")
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


def _lock(file: IO[Any], kind: int) -> bool:
    """Whether we have the lock now. Where the disk knows no locks, we do, and the user must see to it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        print(f"warning: {file.name} cannot be locked ({error.strerror}): let no other collection write there", file=sys.stderr)
    return True
