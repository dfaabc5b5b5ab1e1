"""Files are written whole or not at all, and what the disk refuses is one line."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import (
    disk_errors,
    errno_of,
    parse_json,
    read_json,
    remove_folder,
    remove_partials,
    whole_file,
    whole_folder,
    write_bytes,
    write_text,
)


def test_a_file_appears_whole_in_folders_made_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    with whole_file(path) as partial:
        assert partial.parent == path.parent and partial.suffix == ".txt"
        partial.write_text("half")
        assert not path.exists()
    write_text(path, "whole")
    write_bytes(path.with_name("bytes"), memoryview(b"\x00\x01"))
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {"note.txt": b"whole", "bytes": b"\x00\x01"}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyError("x"), OSError(errno.ENOSPC, "No space left on device")])
def test_what_fails_half_way_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    write_text(tmp_path / "note", "old")
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)), whole_file(tmp_path / "note") as partial:
        partial.write_text("ne")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["note"] and (tmp_path / "note").read_text() == "old"


def test_a_folder_appears_whole_and_goes_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "runs" / "step") as partial:
        (partial / "weights").write_text("1")
        assert not (tmp_path / "runs" / "step").exists()
    assert (tmp_path / "runs" / "step" / "weights").read_text() == "1"
    with pytest.raises(UserError, match="cannot write"), whole_folder(tmp_path / "runs" / "step") as partial:
        (partial / "weights").write_text("2")
    assert (tmp_path / "runs" / "step" / "weights").read_text() == "1"
    remove_folder(tmp_path / "runs" / "step")
    assert not list((tmp_path / "runs").iterdir())


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    step = tmp_path / ".partial-99999999-step"
    step.mkdir()
    (step / "weights").write_text("")
    (tmp_path / ".partial-odd-note").write_text("")
    (tmp_path / f".partial-{os.getppid()}-note").write_text("")  # its writer may look alive while it dies
    (tmp_path / "note").write_text("")
    remove_partials(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"note"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write here: the disk is full: free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot write here: the folder is on a read-only disk"),
        (PermissionError(errno.EACCES, "Permission denied"), "cannot write here: the folder cannot be written"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full"),  # as safetensors says it
        (OSError("Unable to write (file write failed: errno = 28, error message = 'No space')"), "the disk is full"),  # HDF5
    ],
)
def test_what_the_disk_refuses_is_told(error: Exception, line: str) -> None:
    with pytest.raises(UserError) as told, disk_errors("here"):
        raise error
    assert line in str(told.value) and told.value.__cause__ is error


def test_other_errors_pass() -> None:
    assert errno_of(ValueError("shape [28]")) is None
    with pytest.raises(ValueError, match="ours"), disk_errors("here"):
        raise ValueError("ours")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"[" * 250_000, "nested too deep"),
        (b'{"a":' * 150_000 + b"1" + b"}" * 150_000, "nested too deep"),
        (b'{"a": "\xe9"}', "byte 7 is no UTF-8"),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6 is no JSON"),
        (b"", "line 1, column 1 is no JSON"),
        (b"9" * 5000, "it is no JSON"),
        ("\ufeff{}".encode("utf-16"), "is no UTF-8"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        read_json(tmp_path / "a.json")
    assert str(tmp_path / "a.json") in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_json_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, "\u00e9"]}')
    assert read_json(tmp_path / "a.json") == parse_json('{"a": [1, "\u00e9"]}', "here") == {"a": [1, "\u00e9"]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)
