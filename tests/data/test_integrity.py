"""What was changed, taken out or made up since an episode was written is found, and a hostile file is refused unread."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from embodied_liftwm.commands.data import run
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.data.integrity import check, summarize
from embodied_liftwm.data.storage import (
    INFO,
    data_files,
    group_name,
    list_episodes,
    listed_episodes,
    pack_shard,
    read_info,
    write_episode,
    write_info,
)
from embodied_liftwm.errors import UserError

Make = Callable[..., Path]
RAW = (
    *("action", "reward", "terminated", "intrinsics", "world_from_camera", "goal"),
    *(f"truth/{name}" for name in ("world_from_camera", "object_pose", "object_colour", "visible_pixels")),
)
"""Arrays that are small, and stored as they are."""


@pytest.fixture
def listed(make_dataset: Make) -> Path:
    """Three episodes in a shard, as a collection leaves them."""
    folder = make_dataset(9, 10, 11)
    pack_shard(folder, 0, [0, 1, 2])
    list_episodes(folder, [0, 1, 2])
    return folder


@pytest.mark.parametrize("name", RAW)
def test_a_flipped_bit_is_found(listed: Path, name: str) -> None:
    shard = listed / "shard-00000.h5"
    with h5py.File(shard) as file:
        array = file[group_name(1)][name]
        first, size = array.id.get_offset(), array.id.get_storage_size()
    content = bytearray(shard.read_bytes())
    for place in np.random.default_rng(0).integers(8 * size, size=3).tolist():
        flipped = bytearray(content)
        flipped[first + place // 8] ^= 1 << place % 8
        shard.write_bytes(flipped)
        (problem,) = check(listed)
        assert f"{shard}: episode-00000001" in problem
        with pytest.raises(UserError, match="episode-00000001"):
            list(EvaluationReader(listed))
        if not name.startswith("truth"):
            with pytest.raises(UserError, match="episode-00000001"):
                TrainingReader(listed)
    shard.write_bytes(content)
    assert check(listed) == []


def test_changed_texts_are_found(listed: Path) -> None:
    for name in ("meta", "truth/scene", "truth/object_shape"):
        shutil.copy(listed / "shard-00000.h5", listed / "kept")
        with h5py.File(listed / "shard-00000.h5", "r+") as file:
            group = file[group_name(2)]
            text = group[name][()].decode()
            del group[name]
            group[name] = text.replace("1", "7").replace("2", "3").replace("box", "cup")
        (problem,) = check(listed)
        assert "episode-00000002" in problem and "is not as it was written (its checksum differs)" in problem
        os.replace(listed / "kept", listed / "shard-00000.h5")


@pytest.mark.parametrize("lost", [(1,), (0, 1, 2)])
def test_episodes_that_were_taken_out_are_noticed(listed: Path, lost: tuple[int, ...]) -> None:
    write_episode(listed, 3, EvaluationReader(listed)[0])
    if len(lost) == 3:
        (listed / "shard-00000.h5").unlink()
    else:
        with h5py.File(listed / "shard-00000.h5", "r+") as file:
            del file[group_name(1)]
    problems = check(listed)
    assert [f"{group_name(index)} is listed in dataset.json" in line for index, line in zip(lost, problems, strict=True)]
    assert len(problems) == len(lost)


def test_the_list_is_short_and_only_grows(tmp_path: Path) -> None:
    write_info(tmp_path, {"format": 1, "env": "Toy"})
    list_episodes(tmp_path, [0, 1, 2, 7])
    list_episodes(tmp_path, [3, 8])
    info = read_info(tmp_path)
    assert info == {"format": 1, "env": "Toy", "episodes": [[0, 3], [7, 8]]}
    assert listed_episodes(info) == {0, 1, 2, 3, 7, 8}
    for wrong in ("all", [1, 2], [[0, "3"]], [[0, 10**12]], [[-1, 3]], [[True, 3]]):
        write_info(tmp_path, {"format": 1, "episodes": wrong})
        with pytest.raises(UserError, match=r"episodes is no list of \[first, last\]"):
            read_info(tmp_path)


def test_datasets_of_old_are_read_and_said_to_carry_less(make_dataset: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dataset(9, 10)
    with h5py.File(folder / "episode-00000001.h5", "r+") as file:
        del file[group_name(1)].attrs["sha256"], file[group_name(1)]["truth"].attrs["sha256"]
    assert run(["check", str(folder)]) == 0
    assert "1 of 2 episodes carry a checksum, and no list says which there are" in capsys.readouterr().out
    assert len(TrainingReader(folder)) == 2 and summarize(folder).checksums == 1
    write_episode(folder, 1, EvaluationReader(folder)[1])
    list_episodes(folder, [0, 1])
    assert run(["check", str(folder)]) == 0
    assert "checksum" not in capsys.readouterr().out


def make_external(group: h5py.Group, name: str) -> None:
    secret = Path(group.file.filename).with_name("secret.bin")
    secret.write_bytes(bytes(11 * 16 * 16 * 3))
    group.create_dataset(name, (11, 16, 16, 3), np.uint8, external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def make_virtual(group: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout((11, 16, 16, 3), np.uint8)
    layout[:] = h5py.VirtualSource("other.h5", "rgb", (11, 16, 16, 3))
    group.create_virtual_dataset(name, layout)


def make_external_link(group: h5py.Group, name: str) -> None:
    with h5py.File(Path(group.file.filename).with_name("other.h5"), "w") as other:
        other["rgb"] = np.zeros((11, 16, 16, 3), np.uint8)
    group[name] = h5py.ExternalLink("other.h5", "/rgb")


def make_soft_link(group: h5py.Group, name: str) -> None:
    group["elsewhere"] = np.zeros((11, 16, 16, 3), np.uint8)
    group[name] = h5py.SoftLink(f"{group.name}/elsewhere")


def make_four_terabytes(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (11, 2**19, 2**18, 3), np.uint8)


def make_deflated_terabytes(group: h5py.Group, name: str) -> None:
    target = group.create_dataset(name, (11, 2**19, 2**18, 3), np.uint8, chunks=(1, 16, 16, 3), compression="gzip")
    target[0, :16, :16] = 7


def make_holes(group: h5py.Group, name: str) -> None:
    target = group.create_dataset(name, (11, 16, 16, 3), np.uint8, chunks=(2, 16, 16, 3))
    target[:8] = 7


def make_references(group: h5py.Group, name: str) -> None:
    group.create_dataset(name, (11, 16, 16, 3), h5py.ref_dtype)


def make_group(group: h5py.Group, name: str) -> None:
    group.create_group(name)


def make_null(group: h5py.Group, name: str) -> None:
    group[name] = h5py.Empty("uint8")


HOSTILE: list[tuple[Callable[[h5py.Group, str], None], str]] = [
    (make_external, "keeps its data in another file"),
    (make_virtual, "is a virtual dataset"),
    (make_external_link, "is a link to elsewhere"),
    (make_soft_link, "is a link to elsewhere"),
    (make_four_terabytes, "claims 4535485464576 bytes and holds 0"),
    (make_deflated_terabytes, "claims 4535485464576 bytes and holds"),
    (make_holes, "holds 4 of 6 chunks"),
    (make_references, "expected \\[|claims"),
    (make_group, "is no array"),
    (make_null, "rgb: expected"),
]


@pytest.mark.parametrize(("make", "line"), HOSTILE)
def test_a_hostile_array_is_refused_unread(make_dataset: Make, make: Callable[[h5py.Group, str], None], line: str) -> None:
    folder = make_dataset(10)
    with h5py.File(folder / "episode-00000000.h5", "r+") as file:
        group = file[group_name(0)]
        del group["rgb"]
        make(group, "rgb")
    for work in (lambda: list(EvaluationReader(folder)), lambda: TrainingReader(folder), lambda: summarize(folder)):
        with pytest.raises(UserError, match=line) as caught:
            work()
        assert "\n" not in str(caught.value) and "episode-00000000" in str(caught.value)
    assert len(check(folder)) == 1
    assert not list(folder.glob(".cache/*")), "something was made room for"


def test_groups_and_texts_that_lie_elsewhere_are_refused(make_dataset: Make) -> None:
    for place, name in (("", "episode-00000000"), ("episode-00000000", "meta"), ("episode-00000000", "truth")):
        folder = make_dataset(10, name=f"data-{name}")
        path = folder / "episode-00000000.h5"
        shutil.copy(path, folder / "other.h5")
        with h5py.File(path, "r+") as file:
            del file[place or "/"][name]
            file[place or "/"][name] = h5py.ExternalLink("other.h5", f"/{place}/{name}")
        with pytest.raises(UserError, match=f"{name} is a link to elsewhere"):
            list(EvaluationReader(folder))
        assert len(check(folder)) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[" * 200_000, "nested too deep"),
        ('{"seed": 1', "line 1, column"),
        ("[1, 2]", "meta: expected a JSON object, got list"),
        ('{"seed": 1.5}', "meta: seed is 1.5, expected a whole number"),
        (3.0, "is no text"),
    ],
)
def test_a_meta_that_is_none_is_one_line(make_dataset: Make, text: Any, line: str) -> None:
    folder = make_dataset(10)
    with h5py.File(folder / "episode-00000000.h5", "r+") as file:
        group = file[group_name(0)]
        del group["meta"], group.attrs["sha256"]
        group["meta"] = text
    for work in (lambda: list(EvaluationReader(folder)), lambda: TrainingReader(folder)):
        with pytest.raises(UserError, match=line) as caught:
            work()
        assert "\n" not in str(caught.value)
    assert len(check(folder)) == 1


@pytest.mark.parametrize(
    "content", [b"{" * 10, b'{"a":' * 200_000, b'{"format": 1, "env": "\xff"}', b"[]", b'{"format": 1, "versions": 3}']
)
@pytest.mark.parametrize("reader", [TrainingReader, EvaluationReader, summarize, check])
def test_a_dataset_json_that_is_none_is_one_line(make_dataset: Make, content: bytes, reader: Callable) -> None:
    folder = make_dataset(10)
    (folder / INFO).write_bytes(content)
    with pytest.raises(UserError, match=r"dataset\.json") as caught:
        reader(folder)
    assert "\n" not in str(caught.value)


def test_random_bytes_never_end_in_a_traceback(listed: Path) -> None:
    """Bytes anywhere in a shard: an error of one line, or no difference."""
    shard, rng = data_files(listed)[0], np.random.default_rng(1)
    content, before = shard.read_bytes(), [episode.arrays() for episode in EvaluationReader(listed)]
    for _ in range(60):
        damaged = bytearray(content)
        damaged[int(rng.integers(len(content)))] ^= int(rng.integers(1, 256))
        shard.write_bytes(damaged)
        problems = check(listed)
        try:
            after = [episode.arrays() for episode in EvaluationReader(listed)]
        except UserError as error:
            assert problems and "\n" not in str(error)
        else:
            assert json.dumps(problems) == "[]"
            for mine, theirs in zip(before, after, strict=True):
                assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
