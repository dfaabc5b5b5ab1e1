"""Episodes come back bit for bit, from pieces and from shards; damage is named; nothing is ever half written."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.gate import TRUTH_ARRAYS
from embodied_liftwm.data.integrity import check, oddities, summarize
from embodied_liftwm.data.storage import data_files, group_name, pack_shard, read_episode, scan, write_episode, write_info
from embodied_liftwm.errors import UserError

Make = Callable[..., Path]
Build = Callable[..., Episode]


def assert_equal(mine: Episode, theirs: Episode) -> None:
    for name, array in (mine.arrays() | mine.truth_arrays()).items():
        other = (theirs.arrays() | theirs.truth_arrays())[name]
        assert (array.dtype, array.shape, array.tobytes()) == (other.dtype, other.shape, other.tobytes()), name
    assert mine.meta == theirs.meta
    assert (mine.truth is None) == (theirs.truth is None)
    if mine.truth is not None and theirs.truth is not None:
        assert (mine.truth.object_shape, mine.truth.scene) == (theirs.truth.object_shape, theirs.truth.scene)


@pytest.mark.parametrize("steps", [1, 7, 8, 20])
@pytest.mark.parametrize("options", [{}, {"truth": False}, {"objects": 0}])
def test_round_trip_is_bit_exact(make_dataset: Make, steps: int, options: dict, make_episode: Build) -> None:
    folder = make_dataset(steps, **options)
    assert_equal(EvaluationReader(folder)[0], make_episode(steps, 0, **options))


def test_packing_changes_nothing(make_dataset: Make) -> None:
    folder = make_dataset(9, 10, 11)
    before = list(EvaluationReader(folder))
    reader = EvaluationReader(folder)  # opened before, read after
    pack_shard(folder, 0, [0, 1])
    assert [path.name for path in data_files(folder)] == ["shard-00000.h5", "episode-00000002.h5"]
    for mine, theirs in zip(reader, before, strict=True):
        assert_equal(mine, theirs)


def test_a_shard_can_grow(make_dataset: Make, episode: Episode) -> None:
    folder = make_dataset(9, 10)
    pack_shard(folder, 0, [0])
    pack_shard(folder, 0, [0, 1])
    write_episode(folder, 2, episode)
    pack_shard(folder, 0, [0, 1, 2])
    assert [path.name for path in data_files(folder)] == ["shard-00000.h5"]
    assert list(scan(folder)) == [0, 1, 2]
    assert_equal(EvaluationReader(folder)[2], episode)


def test_killed_between_packing_and_tidying(make_dataset: Make) -> None:
    folder = make_dataset(9, 10)
    pieces = {path: path.read_bytes() for path in data_files(folder)}
    pack_shard(folder, 0, [0, 1])
    for path, content in pieces.items():
        path.write_bytes(content)
    assert len(EvaluationReader(folder)) == 2, "an episode that is there twice counts once"
    pack_shard(folder, 0, [0, 1])
    assert [path.name for path in data_files(folder)] == ["shard-00000.h5"]


def test_frames_are_gzip_chunks_of_eight_that_any_hdf5_reads(make_dataset: Make) -> None:
    folder = make_dataset(20)
    with h5py.File(data_files(folder)[0]) as file:
        rgb = file[f"{group_name(0)}/rgb"]
        assert (rgb.chunks, rgb.compression, rgb.compression_opts) == ((8, 16, 16, 3), "gzip", 1)
        assert set(file[group_name(0)]["truth"]) >= {"depth", "segmentation", "object_pose", "visible_pixels"}


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, episode: Episode) -> None:
    path = write_episode(tmp_path, 0, episode)
    content = path.read_bytes()
    bad = dataclasses.replace(episode, meta={"not": {"json"}})
    with pytest.raises(TypeError):
        write_episode(tmp_path, 0, bad)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"rgb": np.zeros((11, 16, 16, 3), np.float32)}, r"rgb: expected \[F, H, W, 3\] uint8|rgb: expected .* float32"),
        ({"action": np.zeros((9, 2), np.float32)}, r"action: expected \[10, A\] float32 for 10 actions"),
        ({"goal": np.zeros((10, 9), np.float32)}, r"goal: expected \[11, 9\] float32, got \[10, 9\]|goal: expected"),
        ({"intrinsics": np.zeros(9, np.float32)}, r"intrinsics: expected \[3, 3\] float32, got \[9\]"),
    ],
)
def test_a_wrong_array_is_named(tmp_path: Path, episode: Episode, changes: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        write_episode(tmp_path, 0, dataclasses.replace(episode, **changes))
    assert not list(tmp_path.iterdir())


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def damage_foreign(path: Path) -> None:
    path.write_text("not HDF5")


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_other_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(3)


def damage_missing_array(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[f"{group_name(1)}/rgb"]


DAMAGES = [damage_truncated, damage_foreign, damage_empty, damage_other_hdf5, damage_missing_array]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", [TrainingReader, lambda path: list(EvaluationReader(path))])
def test_a_damaged_file_is_named(make_dataset: Make, damage: Callable[[Path], None], reader: Callable) -> None:
    folder = make_dataset(9, 10)
    damage(folder / "episode-00000001.h5")
    with pytest.raises(UserError, match=r"episode-00000001\.h5 is truncated or not an episode file") as caught:
        reader(folder)
    assert "\n" not in str(caught.value)
    assert len(check(folder)) == 1


@pytest.mark.parametrize("reader", [TrainingReader, EvaluationReader, summarize])
def test_no_dataset_and_empty_dataset(tmp_path: Path, reader: Callable) -> None:
    with pytest.raises(UserError, match="no dataset at .*missing"):
        reader(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"dataset\.json is missing"):
        reader(tmp_path)
    write_info(tmp_path, {"format": 1})
    with pytest.raises(UserError, match="holds no episode yet"):
        reader(tmp_path)
    write_info(tmp_path, {"format": 99})
    with pytest.raises(UserError, match="format 99, this version reads format 1"):
        reader(tmp_path)


def test_episodes_of_different_image_size_are_refused(make_dataset: Make, make_episode: Build) -> None:
    folder = make_dataset(9)
    write_episode(folder, 1, make_episode(9, 1, size=20))
    with pytest.raises(UserError, match=r"episode-00000001: rgb is \[20, 20, 3\] uint8, in other episodes it is \[16, 16, 3\]"):
        TrainingReader(folder)
    assert any("differ in image" in problem for problem in check(folder))


def test_summary(make_dataset: Make) -> None:
    found = summarize(make_dataset(9, 11, 10))
    assert (found.episodes, found.frames, found.lengths) == (3, 33, (9, 10.0, 11))
    assert (found.image_size, set(found.truth), found.mean_return) == ((16, 16), set(TRUTH_ARRAYS), 0.5)
    assert found.success_share == pytest.approx(1 / 3)


def test_a_sound_dataset_has_no_problems(make_dataset: Make) -> None:
    assert check(make_dataset(9, 11, 10)) == []


def test_oddities(episode: Episode) -> None:
    def found(changed: Episode) -> str:
        return "; ".join(oddities(changed.validate()))

    assert found(episode) == ""
    assert "the same" in found(dataclasses.replace(episode, rgb=np.zeros_like(episode.rgb)))
    truth = episode.truth
    assert truth is not None
    for name, value, line in (
        ("depth", 0 * truth.depth, "0 everywhere"),
        ("segmentation", truth.segmentation * 2, "does not list"),
        ("visible_pixels", truth.visible_pixels + 1, "is not counted"),
    ):
        assert line in found(dataclasses.replace(episode, truth=dataclasses.replace(truth, **{name: value})))


def test_read_episode_of_a_file(make_dataset: Make) -> None:
    folder = make_dataset(9)
    assert len(read_episode(folder / "episode-00000000.h5", 0)) == 9


def test_a_truth_of_some_arrays_is_kept_as_it_is(make_episode: Callable[..., Episode], tmp_path: Path) -> None:
    whole = make_episode(steps=3)
    some = dataclasses.replace(whole, truth=Truth(depth=whole.truth.depth, scene={"seed": 0}))
    write_info(tmp_path, {"format": 1, "env": "Toy"})
    write_episode(tmp_path, 0, some)
    found = EvaluationReader(tmp_path)[0].truth
    assert found.has("depth") and not found.has("segmentation") and not found.has("depth", "world_from_camera")
    assert np.array_equal(found.depth, whole.truth.depth) and found.object_id.shape == (0,)
    assert summarize(tmp_path).truth == ("depth", "object_id", "object_colour") and check(tmp_path) == []
