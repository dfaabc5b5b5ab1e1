"""Datasets in formats of others: read back by the real libraries, and imported again as they were."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embodied_liftwm.commands.data import run
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers.nerfstudio import FILE
from embodied_liftwm.data.reader import EvaluationReader
from embodied_liftwm.data.storage import read_info, write_episode
from embodied_liftwm.errors import UserError

Make = Callable[..., Path]
LEROBOT = Path(sys.prefix) / "lerobot"


def exported(folder: Path, format: str, *options: str) -> Path:
    out = folder.with_name(f"{format}-v0")
    assert run(["export", str(folder), f"format={format}", f"out={out}", *options]) == 0
    return out


def again(folder: Path) -> list[Episode]:
    """A folder, imported."""
    out = folder.with_name(f"{folder.name}-again")
    assert run(["import", str(folder), f"out={out}"]) == 0
    return list(EvaluationReader(out))


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("format", ["minari", "lerobot"])
@pytest.mark.parametrize("truth", [False, True])
def test_all_comes_back_bit_for_bit(
    make_dataset: Make, make_episode: Callable[..., Episode], monkeypatch: pytest.MonkeyPatch, format: str, truth: bool
) -> None:
    pytest.importorskip("minari" if format == "minari" else "pyarrow")
    folder = make_dataset(5, 8)
    write_episode(folder, 2, make_episode(4, 2, objects=3))
    write_episode(folder, 3, make_episode(4, 3, objects=0))
    monkeypatch.chdir(folder.parent)
    out = exported(Path(folder.name), format, f"truth={str(truth).lower()}")
    for found, wanted in zip(again(out), EvaluationReader(folder), strict=True):
        assert_same(found.arrays(), wanted.arrays())
        assert found.meta == wanted.meta
        assert_same(found.truth_arrays(), wanted.truth_arrays() if truth else {})
        if truth:
            assert found.truth.object_shape == wanted.truth.object_shape and found.truth.scene == wanted.truth.scene
    info = read_info(out.with_name(f"{out.name}-again"))
    assert (info["env"], info["split"], info["policy"]) == ("Toy", "train", "walk"), "splits stay apart through an export"


@pytest.mark.parametrize("objects", [0, 2])
def test_nerfstudio_keeps_frames_and_cameras(make_dataset: Make, objects: int) -> None:
    folder = make_dataset(5, 8, objects=objects)
    out = exported(folder, "nerfstudio", "truth=true")
    for found, wanted in zip(again(out), EvaluationReader(folder), strict=True):
        kept = ("rgb", "intrinsics", "world_from_camera")
        assert_same({name: found.arrays()[name] for name in kept}, {name: wanted.arrays()[name] for name in kept})
        assert found.action.shape == (len(wanted), 6) and found.goal.shape[1] == 0, "of which the format has none"
        assert list(found.truth_arrays()) == ["depth", "object_id", "object_colour"]
        error = np.abs(found.truth.depth.astype(float) - wanted.truth.depth.astype(float))
        assert error.max() < 0.001


def test_truth_stays_here_unless_it_is_asked_for(make_dataset: Make) -> None:
    folder = make_dataset(5)
    for format in ("minari", "lerobot", "nerfstudio"):
        out = exported(folder, format)
        written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file() and path.suffix != ".png")
        assert not any(word in written for word in (b"object_pose", b"rooms", b"depth")), format


@pytest.mark.filterwarnings("ignore")
def test_minari_reads_its_export(make_dataset: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    folder = make_dataset(5, 8)
    out = exported(folder, "minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out.parent))
    found = minari.load_dataset("minari-v0")
    assert found.total_episodes == 2 and found.total_steps == 13
    for episode, wanted in zip(found.iterate_episodes(), EvaluationReader(folder), strict=True):
        assert found.observation_space.contains({name: rows[0] for name, rows in episode.observations.items()})
        assert found.action_space.contains(episode.actions[0])
        assert np.array_equal(episode.observations["rgb"], wanted.rgb), "lossless"
        assert np.array_equal(episode.observations["world_from_camera"], wanted.world_from_camera)
        assert np.array_equal(episode.actions, wanted.action) and np.array_equal(episode.rewards, wanted.reward)
        assert np.array_equal(episode.terminations, wanted.terminated)


@pytest.mark.filterwarnings("ignore")
def test_minari_datasets_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_episode: Callable[..., Episode]
) -> None:
    minari, spaces = pytest.importorskip("minari"), pytest.importorskip("gymnasium").spaces
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    wanted = make_episode(4, truth=False)
    seen = {"camera": {"image": wanted.rgb}, "pose": wanted.world_from_camera.reshape(5, 16)}
    kinds = {"camera": spaces.Dict({"image": spaces.Box(0, 255, (16, 16, 3), np.uint8)}), "pose": spaces.Box(-9, 9, (16,))}
    buffer = EpisodeBuffer(None, None, None, seen, np.array([2, 1, 0, 2]), [0.0] * 4, [False] * 4, [False] * 3 + [True])
    minari.create_dataset_from_buffers(
        "foreign-v0", [buffer], observation_space=spaces.Dict(kinds), action_space=spaces.Discrete(3), jpeg_encoding=False
    )
    words = ["import", str(tmp_path / "foreign-v0"), f"out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="world_from_camera: there is none, expected .* another name: pose=KEY"):
        run([*words, "intrinsics=16,16,8,8"])
    with pytest.raises(UserError, match="no place: expected pose= one of camera/image, pose"):
        run([*words, "intrinsics=16,16,8,8", "pose=place"])
    assert run([*words, "intrinsics=16,16,8,8", "pose=pose"]) == 0
    (found,) = EvaluationReader(tmp_path / "out")
    assert np.array_equal(found.rgb, wanted.rgb) and np.array_equal(found.world_from_camera, wanted.world_from_camera)
    assert np.array_equal(found.action, np.eye(3)[[2, 1, 0, 2]])


def test_lerobot_is_laid_out_as_its_format_says(make_dataset: Make) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = exported(make_dataset(5, 8), "lerobot")
    info = json.loads((out / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and (info["total_episodes"], info["total_frames"]) == (2, 15)
    rows = parquet.read_table(out / "data/chunk-000/file-000.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(15)) and [row["frame_index"] for row in rows[6:]] == list(range(9))
    picture = Image.open(io.BytesIO(rows[0]["observation.images.camera"]["bytes"]))
    assert picture.format == "PNG" and picture.size == (16, 16)
    episodes = parquet.read_table(out / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"], row["length"]) for row in episodes] == [(0, 6, 6), (6, 15, 9)]
    stats = json.loads((out / "meta/stats.json").read_text())
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["observation.images.camera"]["bytes"]))) for row in rows]) / 255
    told = stats["observation.images.camera"]
    assert np.ravel(told["mean"]) == pytest.approx(pixels.mean((0, 1, 2))) and told["count"] == [15]
    assert np.ravel(told["std"]) == pytest.approx(pixels.std((0, 1, 2)))
    assert np.ravel(told["q90"]) == pytest.approx(np.quantile(pixels, 0.9, (0, 1, 2)), abs=1 / 255)
    assert np.ravel(told["max"]) == pytest.approx(pixels.max((0, 1, 2)))
    actions = np.array([row["action"] for row in rows])
    assert stats["action"]["min"] == pytest.approx(actions.min(0)) and len(stats["action"]["q50"]) == 2


READ_LEROBOT = """
import sys, types
from importlib.machinery import ModuleSpec
import datasets, numpy as np, torch
class ToTensor:
    def __call__(self, picture):
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
for name in ("torchvision", "torchvision.transforms"):  # whose wheel does not import beside our torch; ToTensor is what is used
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__spec__ = ModuleSpec(name, None)
sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
sys.modules["torchvision.transforms"].ToTensor = ToTensor
from lerobot.datasets.lerobot_dataset import LeRobotDataset
found = LeRobotDataset("liftwm/export", root=sys.argv[1], delta_timestamps={"action": [0, 0.1]})
assert (found.num_episodes, found.num_frames, found.fps) == (2, 15, 10), found
items = [found[i] for i in range(len(found))]
assert items[0]["task"] == "Toy" and bool(items[5]["action_is_pad"][1]) and not bool(items[4]["action_is_pad"][1])
assert found.meta.stats["action"]["mean"].shape == (2,)
names = ["observation.images.camera", "observation.world_from_camera", "observation.intrinsics", "observation.goal", "action",
         "next.reward", "next.terminated", "next.done", "episode_index", "truth.depth"]
np.savez(sys.argv[2], **{name: np.stack([item[name].numpy() for item in items]) for name in names})
"""


@pytest.mark.worlds
def test_lerobot_reads_its_export(make_dataset: Make, tmp_path: Path) -> None:
    if not LEROBOT.is_dir():
        pytest.skip("no LeRobot here: scripts/setup.sh dev installs it")
    folder = make_dataset(5, 8)
    out = exported(folder, "lerobot", "truth=true")
    env = os.environ | {"PYTHONPATH": str(LEROBOT), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    script = [sys.executable, "-c", READ_LEROBOT, str(out), str(tmp_path / "read.npz")]
    done = subprocess.run(script, env=env, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = np.load(tmp_path / "read.npz")
    wanted = list(EvaluationReader(folder))
    first = found["episode_index"] == 0
    for episode, rows in ((wanted[0], first), (wanted[1], ~first)):
        frames = (found["observation.images.camera"][rows] * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
        assert np.array_equal(frames, episode.rgb)
        assert np.array_equal(found["observation.world_from_camera"][rows].reshape(-1, 4, 4), episode.world_from_camera)
        assert np.array_equal(found["observation.intrinsics"][rows][0].reshape(3, 3), episode.intrinsics)
        assert np.array_equal(found["observation.goal"][rows], episode.goal)
        assert np.array_equal(found["action"][rows][:-1, 0], episode.action) and not found["action"][rows][-1, 0].any()
        assert np.array_equal(found["next.reward"][rows][:-1], episode.reward)
        assert np.array_equal(found["next.terminated"][rows][:-1], episode.terminated) and found["next.done"][rows][-1]
        assert np.array_equal(found["truth.depth"][rows].astype(np.float16), episode.truth.depth)


def test_lerobot_datasets_with_videos(make_dataset: Make, tmp_path: Path) -> None:
    """Two episodes that share a video, as others record them: an action a row, no poses of ours."""
    import av

    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root, lengths, fps = tmp_path / "robot", (4, 3), 5
    kinds = {"observation.images.top": {"dtype": "video", "shape": [32, 48, 3]}, "action": {"dtype": "float32", "shape": [1]},
             "observation.pose": {"dtype": "float32", "shape": [7]}}  # fmt: skip
    info = {"codebase_version": "v3.0", "fps": fps, "robot_type": "arm", "features": kinds,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"}  # fmt: skip
    film = root / "videos/observation.images.top/chunk-000/file-000.mp4"
    for folder in (film.parent, root / "meta/episodes/chunk-000", root / "data/chunk-000"):
        folder.mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    with av.open(str(film), "w") as video:
        stream = video.add_stream("h264", rate=fps, options={"crf": "1", "g": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for grey in range(10, 80, 10):
            video.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), format="rgb24")))
        video.mux(stream.encode())
    part, first = "videos/observation.images.top", [0, 4]
    place = {"data/chunk_index": 0, "data/file_index": 0, f"{part}/chunk_index": 0, f"{part}/file_index": 0}
    outlines = [place | {"episode_index": i, "length": lengths[i], f"{part}/from_timestamp": first[i] / fps} for i in (0, 1)]
    parquet.write_table(pa.Table.from_pylist(outlines), root / "meta/episodes/chunk-000/file-000.parquet")
    rows = [{"episode_index": e, "frame_index": f, "action": float(10 * e + f), "observation.pose": [f, 0, 0, 0, 0, 0, 1.0]}
            for e in (0, 1) for f in range(lengths[e])]  # fmt: skip
    parquet.write_table(pa.Table.from_pylist(rows), root / "data/chunk-000/file-000.parquet")
    words = ["import", str(root), f"out={tmp_path / 'out'}", "pose=observation.pose", "intrinsics=40,40,24,16", "size=16x24"]
    assert run(words) == 0
    found = list(EvaluationReader(tmp_path / "out"))
    assert [len(episode) for episode in found] == [3, 2] and found[1].rgb.shape == (3, 16, 24, 3)
    assert np.abs(found[1].rgb[:, 8, 12, 0].astype(int) - [50, 60, 70]).max() <= 2
    assert found[1].action.tolist() == [[10], [11]] and found[0].world_from_camera[:, 0, 3].tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match="no feature wrist: expected pose= one of observation.images.top, action"):
        run([*words, "pose=wrist"])
    for damage, line in (
        ({"data_path": None}, "not as format=lerobot says"),
        ({"codebase_version": "v2.1"}, "format v2.1, expected"),
    ):
        (root / "meta/info.json").write_text(json.dumps(info | damage))
        with pytest.raises(UserError, match=line):
            run([*words, f"out={tmp_path / 'damaged'}"])


def test_nerfstudio_means_what_its_documentation_says(make_dataset: Make) -> None:
    """Read as docs.nerf.studio tells: OpenGL cameras, pixels, a picture a frame."""
    folder = make_dataset(5)
    out = exported(folder, "nerfstudio")
    (wanted,) = EvaluationReader(folder)
    told = json.loads((out / "episode-00000000" / FILE).read_text())
    point = np.array([0.3, 0.2, 4.0, 1.0])  # in front of camera 2, OpenCV axes
    u, v = (wanted.intrinsics @ point[:3] / point[2])[:2]
    camera = np.linalg.inv(np.array(told["frames"][2]["transform_matrix"])) @ wanted.world_from_camera[2] @ point
    assert camera[2] < 0, "it looks along -z"
    assert told["fl_x"] * camera[0] / -camera[2] + told["cx"] == pytest.approx(u)
    assert told["fl_y"] * -camera[1] / -camera[2] + told["cy"] == pytest.approx(v)
    picture = np.asarray(Image.open(out / "episode-00000000" / told["frames"][2]["file_path"]))
    assert np.array_equal(picture, wanted.rgb[2]) and (told["h"], told["w"]) == picture.shape[:2]
    assert "depth_file_path" not in told["frames"][2]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["DATA"], "which format. Give format= one of minari, lerobot, nerfstudio"),
        (["DATA", "format=lerbot"], "did you mean lerobot"),
        (["DATA", "format=nerfstudio", "truth=maybe"], "truth=maybe: expected one of true, false"),
        (["DATA", "format=nerfstudio", "out=DATA"], "is there already"),
        (["nowhere", "format=nerfstudio"], "no dataset at nowhere"),
        (["DATA", "format=minari", "out=DATA-plain"], "Minari asks for a name with a version, as in data-plain-v0"),
    ],
)
def test_mistakes_are_one_line(make_dataset: Make, words: list[str], line: str) -> None:
    folder = make_dataset(3)
    with pytest.raises(UserError, match=line):
        run(["export", *(word.replace("DATA", str(folder)) for word in words)])
    assert sorted(path.name for path in folder.parent.iterdir()) == ["data"], "nothing is left"


def test_episodes_of_different_sizes_do_not_fit_into_lerobot(make_dataset: Make, make_episode: Callable[..., Episode]) -> None:
    pytest.importorskip("pyarrow")
    folder = make_dataset(3)
    write_episode(folder, 1, make_episode(3, size=32))
    with pytest.raises(UserError, match=r"episode 1: observation.images.camera: \[32, 32, 3\], expected \[16, 16, 3\]"):
        exported(folder, "lerobot")
