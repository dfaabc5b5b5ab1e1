"""nerfstudio's transforms.json, and frames or a video beside poses in TUM's format."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from embodied_liftwm.commands.data import run
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers import find_format
from embodied_liftwm.data.reader import EvaluationReader
from embodied_liftwm.errors import UserError

RNG = np.random.default_rng(5)
FRAMES = RNG.integers(0, 256, (3, 20, 32, 3), dtype=np.uint8)
EYE = np.eye(4).tolist()


def transforms(folder: Path, frames: list[dict] | None = None, **said: object) -> Path:
    """A folder in nerfstudio's layout: by default three frames, the camera one unit further up each time."""
    (folder / "images").mkdir(parents=True)
    for number, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"images/{number}.png")
    named = [{"file_path": f"images/{i}.png", "transform_matrix": lifted(i).tolist()} for i in (2, 0, 1)]
    told = {"fl_x": 30.0, "fl_y": 31.0, "cx": 15.0, "cy": 9.0, "w": 32, "h": 20} | said
    told["frames"] = [a | b for a, b in zip(named, frames or [{}] * 3)]
    (folder / "transforms.json").write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    return folder


def lifted(height: float) -> np.ndarray:
    pose = np.eye(4)
    pose[2, 3] = height
    return pose


def imported(folder: Path, *options: str) -> list[Episode]:
    assert run(["import", str(folder), f"out={folder}-out", *options]) == 0
    return list(EvaluationReader(f"{folder}-out"))


def test_an_opengl_camera_becomes_an_opencv_one(tmp_path: Path) -> None:
    (found,) = imported(transforms(tmp_path / "a"))
    assert np.array_equal(found.rgb, FRAMES), "in the order of their names"
    assert np.array_equal(found.intrinsics, np.array([[30, 0, 15], [0, 31, 9], [0, 0, 1]], np.float32))
    ahead = found.world_from_camera[1] @ [0, 0, 1, 1]  # a metre along OpenCV's z
    assert np.allclose(ahead[:3], [0, 0, 0]), "OpenGL looks along -z, from height 1"
    below = found.world_from_camera[1] @ [0, 1, 0, 1]
    assert np.allclose(below[:3], [0, -1, 1]), "OpenCV's y is down, OpenGL's up"
    assert found.action.shape == (2, 6) and np.allclose(found.action[0], [0, 0, -1, 0, 0, 0])
    assert found.truncated.tolist() == [False, True] and not found.terminated.any()


def test_frames_are_cropped_to_the_proportions_asked_for(tmp_path: Path) -> None:
    (found,) = imported(transforms(tmp_path / "a"), "size=16x16")
    assert found.rgb.shape == (3, 16, 16, 3)
    assert found.intrinsics == pytest.approx(np.array([[24, 0, (15 - 6) * 0.8], [0, 24.8, 7.2], [0, 0, 1]]))
    (wide,) = imported(transforms(tmp_path / "b"), "size=16x32")  # two rows above and below go
    assert np.array_equal(wide.rgb, FRAMES[:, 2:18])
    assert np.array_equal(wide.intrinsics, np.array([[30, 0, 15], [0, 31, 7], [0, 0, 1]], np.float32))


def test_other_ways_to_give_the_focal_length(tmp_path: Path) -> None:
    none = {"fl_x": None, "fl_y": None, "cx": None, "cy": None, "w": None, "h": None}
    (angle,) = imported(transforms(tmp_path / "a", **none, camera_angle_x=np.pi / 2))
    assert angle.intrinsics == pytest.approx(np.array([[16, 0, 16], [0, 16, 10], [0, 0, 1]]))
    (each,) = imported(transforms(tmp_path / "b", [{"fl_x": 30, "fl_y": 30, "cx": 16, "cy": 10}] * 3, **none))
    assert each.intrinsics[0, 0] == 30
    with pytest.raises(UserError, match="transforms.json: intrinsics: changed at frame 1, expected one camera"):
        imported(transforms(tmp_path / "c", [{"fl_x": 30}, {"fl_x": 30}, {"fl_x": 40}]))  # of frames 2, 0, 1


@pytest.mark.parametrize(
    ("frames", "said", "line"),
    [
        (None, {"k1": 0.1}, "k1 is 0.1: expected a camera without distortion"),
        (None, {"camera_model": "OPENCV_FISHEYE"}, "camera_model is OPENCV_FISHEYE"),
        (None, {"fl_x": None}, "images/0.png: no focal length: expected fl_x"),
        (None, {"fl_x": "wide"}, "images/0.png: fl_x is 'wide', expected a number"),
        (None, {"h": 21}, "images/0.png is 20 x 32, and h x w in the file 21 x 32"),
        ([{"file_path": "images/9.png"}, {}, {}], {}, "9.png: no such picture"),
        ([{"transform_matrix": [[1]]}, {}, {}], {}, "frame 0: transform_matrix: expected 4 x 4 numbers"),
        ([{"transform_matrix": [[1], [1, 2]]}, {}, {}], {}, "not as format=nerfstudio says"),
        ([{"transform_matrix": np.diag([1, 1, -1, 1]).tolist()}, {}, {}], {}, "world_from_camera: frame 2 is mirrored"),
    ],
)
def test_faults_of_a_transforms_file_are_one_line(
    tmp_path: Path, frames: list[dict] | None, said: dict[str, object], line: str
) -> None:
    folder = transforms(tmp_path / "a", frames, **said)
    with pytest.raises(UserError, match=line) as caught:
        imported(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_an_import_goes_on_and_says_what_was_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b", "c"):
        transforms(tmp_path / "all" / name)
    (tmp_path / "all/b/images/1.png").rename(tmp_path / "1.png")
    out = tmp_path / "out"
    words = ["import", str(tmp_path / "all"), f"out={out}"]
    assert run(words) == 2
    assert "all/b/images/1.png: no such picture" in " ".join(capsys.readouterr().out.split())
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert len(before) == 2
    (tmp_path / "1.png").rename(tmp_path / "all/b/images/1.png")
    assert run(words) == 0
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.h5")}.items() > before.items()
    assert [episode.meta["clip"] for episode in EvaluationReader(out)] == ["a", "b", "c"]
    with pytest.raises(UserError, match="holds another dataset, or one imported with other options"):
        run([*words, "size=16"])


QUARTER = "0 0 0.70710678 0.70710678"  # a quarter turn about z
POSES = f"# timestamp tx ty tz qx qy qz qw\n1.00 0 0 0 0 0 0 1\n1.05 1 2 3 {QUARTER}\n1.10 4 5 6 0 0 0 1\n"


def pictures(folder: Path, names: tuple[str, ...], poses: str = POSES) -> Path:
    (folder / "rgb").mkdir(parents=True)
    for name, frame in zip(names, FRAMES):
        Image.fromarray(frame).save(folder / "rgb" / name)
    (folder / "groundtruth.txt").write_text(poses)
    return folder


def test_pictures_and_poses_belong_together_in_order(tmp_path: Path) -> None:
    (found,) = imported(pictures(tmp_path / "a", ("8.png", "9.png", "10.png")), "intrinsics=30,31,15,9")
    assert np.array_equal(found.rgb, FRAMES)
    assert found.world_from_camera[1] == pytest.approx(
        np.array([[0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]]), abs=1e-6
    )
    assert np.array_equal(found.intrinsics, np.array([[30, 0, 15], [0, 31, 9], [0, 0, 1]], np.float32))


def test_pictures_take_the_pose_nearest_in_time(tmp_path: Path) -> None:
    fourth = POSES + "1.20 7 8 9 0 0 0 1\n"
    (found,) = imported(pictures(tmp_path / "a", ("1.06.png", "1.19.png", "1.50.png"), fourth), "intrinsics=30,31,15,9")
    assert np.array_equal(found.rgb, FRAMES[:2]) and found.meta["frames_without_pose"] == 1
    assert found.world_from_camera[:, 0, 3].tolist() == [1, 7]
    folder = pictures(tmp_path / "b", ("x.png", "y.png", "z.png"), fourth)
    with pytest.raises(UserError, match=r"x\.png: it is not said when it was taken"):
        imported(folder, "intrinsics=30,31,15,9")
    (folder / "rgb.txt").write_text("# time file\n1.1 rgb/y.png\n1.2 rgb/x.png\n")
    (listed,) = imported(folder, "intrinsics=30,31,15,9")
    assert np.array_equal(listed.rgb, FRAMES[[1, 0]]) and listed.world_from_camera[:, 0, 3].tolist() == [4, 7]


def test_a_video_has_a_pose_a_frame(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mp4"), "w") as video:
        stream = video.add_stream("h264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 20, 32, "yuv444p"
        smooth = np.broadcast_to(np.linspace(0, 200, 32)[:, None], (3, 20, 32, 3)).astype(np.uint8)
        for frame in smooth:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        video.mux(stream.encode())
    (tmp_path / "poses.txt").write_text(POSES)
    words = ["import", str(tmp_path / "v.mp4"), f"out={tmp_path / 'out'}", "poses=poses.txt", "intrinsics=30,31,15,9"]
    assert run(words) == 0
    (found,) = EvaluationReader(tmp_path / "out")
    assert np.abs(found.rgb.astype(int) - smooth).max() < 10
    (tmp_path / "poses.txt").write_text(POSES + "2 0 0 0 0 0 0 1\n")
    with pytest.raises(UserError, match="3 frames, and .* has 4 poses: expected one each"):
        run([word.replace("/out", "/other") for word in words])


@pytest.mark.parametrize(
    ("poses", "options", "line"),
    [
        (POSES, [], "the format has no intrinsics: give those"),
        (POSES, ["intrinsics=1,2"], "expected four numbers fx,fy,cx,cy"),
        (POSES, ["intrinsics=0.5,0.9,0.5,0.5"], "are shares of the frame"),
        (POSES, ["intrinsics=30,31,15,9", "poses=other.txt"], r"other\.txt: no such file of poses"),
        (POSES.replace("4 5 6", "4 5"), ["intrinsics=30,31,15,9"], "groundtruth.txt: line 4: expected timestamp tx ty"),
        (POSES.replace("4 5 6", "4 5 x"), ["intrinsics=30,31,15,9"], "line 4: expected timestamp tx ty"),
        (POSES.replace(QUARTER, "0 0 0 2"), ["intrinsics=30,31,15,9"], "frame 1: the quaternion has length 2, expected 1"),
        (POSES.replace("4 5 6", "4 5 nan"), ["intrinsics=30,31,15,9"], "frame 2 holds nan"),
        ("# none\n", ["intrinsics=30,31,15,9"], "no pose in it"),
        (POSES, ["intrinsics=30,31,15,9", "format=nerfstudio"], "format=nerfstudio has no use for it"),
        (POSES, ["intrinsics=30,31,15,9", "format=tom"], "did you mean tum"),
        (POSES, ["intrinsics=30,31,15,9", "size=8"], "size=8: expected 16 to 2048 pixels a side"),
    ],
)
def test_faults_of_pose_files_are_one_line(tmp_path: Path, poses: str, options: list[str], line: str) -> None:
    folder = pictures(tmp_path / "a", ("0.png", "1.png", "2.png"), poses)
    with pytest.raises(UserError, match=line) as caught:
        imported(folder, *options)
    assert "\n" not in str(caught.value)


def test_what_looks_like_nothing_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        find_format(tmp_path / "none")
    with pytest.raises(UserError, match="of no format that can be imported"):
        find_format(tmp_path)
