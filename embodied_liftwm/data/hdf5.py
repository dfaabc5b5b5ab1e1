"""HDF5 files of any origin: written whole, and opened without trust.

A file can point elsewhere (links, external storage, virtual datasets) and claim sizes that it does not hold. Nothing of it is
read before each part is known to lie in this very file, whole.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import parse_json, write_bytes

DEFLATED_TO = 1100
"""Bytes that a stored byte can stand for: deflate never makes more of one than 1032."""


@contextmanager
def replacing_hdf5(path: Path) -> Iterator[h5py.File]:
    """Yield an HDF5 file in memory, which is written over `path` if the block succeeds.

    HDF5 itself must not meet a full disk: it prints pages of errors and may crash the process. Plain bytes cannot.
    """
    image = io.BytesIO()
    with h5py.File(image, "w", libver="latest") as file:
        yield file
    write_bytes(path, image.getbuffer())


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading.

    Raises:
        UserError: names the file when it is truncated, foreign or damaged.
        FileNotFoundError: it is gone, as pieces are once they are packed.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except FileNotFoundError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        if not path.exists():  # HDF5 has other words for a file that goes while it is being opened
            raise FileNotFoundError(path) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0].strip("'\"")
        raise UserError(f"{path} is truncated or not an episode file ({reason}): delete it and collect again") from error


def has(group: h5py.Group, name: str) -> bool:
    """Whether a group has a member of this name, of whatever kind."""
    return group.id.links.exists(name.encode())


def open_group(parent: h5py.Group, name: str) -> h5py.Group:
    """A group that lies in this file.

    Raises:
        UserError: it is a link to elsewhere, or no group.
        KeyError: there is none.
    """
    found = _own(parent, name)
    if not isinstance(found, h5py.Group):
        raise _refusal(parent, name, "is no group")
    return found


def open_array(group: h5py.Group, name: str) -> h5py.Dataset:
    """An array of a group that lies in this file, whole; nothing of it is read.

    Raises:
        UserError: it is a link to elsewhere, no array, kept in another file, or not all there.
        KeyError: there is none.
    """
    found = _own(group, name)
    if not isinstance(found, h5py.Dataset):
        raise _refusal(group, name, "is no array")
    layout, shape = found.id.get_create_plist(), found.shape
    kind = layout.get_layout()
    if kind == h5py.h5d.VIRTUAL:
        raise _refusal(group, name, "is a virtual dataset, whose data lie in other files")
    if layout.get_external_count():
        raise _refusal(group, name, "keeps its data in another file (external storage)")
    size = 0 if shape is None else math.prod(shape)
    claimed, stored = size * found.id.get_type().get_size(), found.id.get_storage_size()
    if claimed > stored * (DEFLATED_TO if kind == h5py.h5d.CHUNKED else 1):
        raise _refusal(group, name, f"claims {claimed} bytes and holds {stored}")
    if size and kind == h5py.h5d.CHUNKED:
        chunks, held = math.prod(-(-s // c) for s, c in zip(shape, layout.get_chunk(), strict=True)), found.id.get_num_chunks()
        if held < chunks:
            raise _refusal(group, name, f"holds {held} of {chunks} chunks")
    return found


def read_text(group: h5py.Group, name: str) -> bytes:
    """A text of a group, as UTF-8.

    Raises:
        UserError: it is none, or lies elsewhere.
        KeyError: there is none.
    """
    found = open_array(group, name)
    if h5py.check_string_dtype(found.dtype) is None or found.shape != ():
        raise _refusal(group, name, f"is no text ({list(found.shape or ())} {found.dtype})")
    return bytes(found[()])


def parse_text(group: h5py.Group, name: str, content: bytes) -> Any:
    """What a text of JSON says. Raises UserError: it is none."""
    return parse_json(content, f"{group.file.filename}: {group.name.strip('/')}/{name}")


def _own(parent: h5py.Group, name: str) -> Any:
    """A member by a hard link: soft and external ones are not followed."""
    try:
        link = parent.id.links.get_info(name.encode())
    except (KeyError, RuntimeError):
        raise KeyError(f"no {name} in {(parent.name or '').strip('/') or 'it'}") from None
    if link.type != h5py.h5l.TYPE_HARD:
        raise _refusal(parent, name, "is a link to elsewhere")
    return parent[name]


def _refusal(group: h5py.Group, name: str, what: str) -> UserError:
    where = f"{group.name}/{name}".strip("/")
    return UserError(f"{group.file.filename}: {where} {what}: an episode file holds all its data itself; it is not read")
