"""Camera paths end where they should, and know which steps come back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.generation.camera_paths import named_path, read_path, recorded_path


@pytest.mark.parametrize("name", ["yaw-90", "yaw-45.5", "out-and-back-1", "out-0.3", "aba", "abca-0.8", "loop", "loop-1"])
def test_every_path_ends_where_it_began_in_steps_that_are_not_large(name: str) -> None:
    path = named_path(name, 6)
    assert np.allclose(path.poses[-1], path.poses[0], atol=1e-12)
    assert (len(path), 0) in path.pairs and path.back() == len(path)
    assert 0 < path.farthest() < len(path)
    assert np.allclose(path.poses[:, :3, :3] @ path.poses[:, :3, :3].transpose(0, 2, 1), np.eye(3))
    assert path.metres[-1] == pytest.approx(np.linalg.norm(np.diff(path.poses[:, :3, 3], axis=0), axis=1).sum())


def test_yaw_turns_right_and_back(tools) -> None:
    path = named_path("yaw-90", 3).starting_at(tools.pose_at(0.4, (1.0, -2.0)))
    for step, degrees in enumerate([0, 30, 60, 90, 60, 30, 0]):
        assert np.allclose(path.poses[step], tools.pose_at(0.4 - np.radians(degrees), (1.0, -2.0)), atol=1e-6)
    assert path.pairs == ((4, 2), (5, 1), (6, 0))
    assert path.degrees[-1] == pytest.approx(180, abs=1e-3) and path.metres[-1] < 1e-6


def test_a_whole_turn_is_back_in_the_middle() -> None:
    assert named_path("yaw-360", 4).pairs == ((4, 0), (5, 3), (6, 2), (7, 1), (8, 0))


def test_out_and_back_goes_along_the_line_of_sight(tools) -> None:
    path = named_path("out-2", 4).starting_at(tools.pose_at(np.pi / 2))  # looks along world y
    assert np.allclose(path.poses[:, 1, 3], [0, 0.5, 1.0, 1.5, 2.0, 1.5, 1.0, 0.5, 0.0])
    assert np.ptp(path.poses[:, [0, 2], 3], axis=0).max() < 1e-6
    assert path.pairs == ((5, 3), (6, 2), (7, 1), (8, 0))


def test_a_loop_is_a_circle_that_faces_ahead_and_a_triangle_visits_two_places() -> None:
    loop = named_path("loop-1", 5)
    assert np.allclose(np.linalg.norm(loop.poses[:, :3, 3] - [1.0, 0.0, 0.0], axis=1), 1.0)
    ahead = loop.poses[:-1, :3, 2]
    chords = np.diff(loop.poses[:, :3, 3], axis=0)
    assert ((ahead * chords).sum(1) / np.linalg.norm(chords, axis=1) > 0.95).all()
    assert loop.pairs == ((20, 0),)
    assert named_path("abca", 5).pairs == ((15, 0),)
    assert named_path("aba", 2).pairs == ((3, 1), (4, 0))


def test_a_camera_that_stays_has_not_come_back(tools) -> None:
    places = [0.0, 0.0, 0.05, 1.0, 1.0, 0.02, 1.04]
    path = recorded_path("recorded", np.stack([tools.pose_at(0.0, (x, 0.0)) for x in places]))
    assert path.pairs == ((5, 0), (6, 3))
    turned = recorded_path("recorded", np.stack([tools.pose_at(a) for a in (0.0, 1.0, 0.05, 0.15)]))
    assert turned.pairs == ((2, 0),)  # 0.15 rad is more than 5 degrees


def test_scaled_translations_keep_their_rotations() -> None:
    path = named_path("aba-1", 3)
    doubled = path.starting_at(np.eye(4), 2.0)
    assert np.allclose(doubled.poses[:, :3, 3], 2 * path.poses[:, :3, 3])
    assert np.allclose(doubled.poses[:, :3, :3], path.poses[:, :3, :3])


def test_files_of_every_kind_hold_the_same_path(tmp_path: Path) -> None:
    path = named_path("aba-1", 3)
    np.save(tmp_path / "a.npy", path.poses)
    (tmp_path / "a.json").write_text(json.dumps(path.poses.tolist()))
    rows = [" ".join(map(str, np.linalg.inv(pose)[:3].ravel())) for pose in path.poses]
    (tmp_path / "a.txt").write_text("\n".join(["https://x", *(f"{i} 0.5 0.9 0.5 0.5 0 0 {row}" for i, row in enumerate(rows))]))
    for suffix in (".npy", ".json", ".txt"):
        stored = read_path(tmp_path / f"a{suffix}")
        assert stored.name == "a" and np.allclose(stored.poses, path.poses, atol=1e-9)
        assert stored.pairs[-1] == (6, 0)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("yav-90", "did you mean 'yaw-90'"),
        ("out-and-bak-1", "did you mean 'out-and-back-1'"),
        ("zigzag", "expected one of"),
        ("yaw-400", "at most 360"),
        ("out-0", "must be above 0"),
    ],
)
def test_unknown_paths_name_the_nearest(name: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        named_path(name, 4)


def test_bad_files_are_one_line(tmp_path: Path) -> None:
    for name, content, line in (
        ("a.json", "[[1, 2], [3, 4]]", r"expected poses \[T, 4, 4\] with T >= 2, got \[2, 2\]"),
        ("b.json", "{", "cannot be read"),
        ("c.txt", "https://x\n1 2 3", "line 2: expected a timestamp"),
        ("d.json", json.dumps((2 * np.eye(4)[None].repeat(2, 0)).tolist()), "frame 0 has a last row of 0 0 0 2"),
        ("e.csv", "", "expected a file"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=line):
            read_path(tmp_path / name)
    with pytest.raises(UserError, match="no such file"):
        read_path(tmp_path / "none.npy")
