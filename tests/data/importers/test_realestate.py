"""RealEstate10K's format, read from small clips that the tests write in it."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from embodied_liftwm.commands.data import run
from embodied_liftwm.data.importers import Settings, import_dataset
from embodied_liftwm.data.importers.frames import fit_intrinsics, pinhole
from embodied_liftwm.data.importers.realestate import read_camera_file, read_clip
from embodied_liftwm.data.pictures import read_picture
from embodied_liftwm.data.reader import EvaluationReader, TrainingReader
from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.se3 import se3_exp

HAND = """https://www.youtube.com/watch?v=abc
52553000 0.5 0.9 0.5 0.5 0.0 0.0 1 0 0 0 0 1 0 0 0 0 1 0
52586000 0.5 0.9 0.5 0.5 0.0 0.0 0 0 -1 0.25 0 1 0 -0.5 1 0 0 2
"""
"""Two frames: at the origin, and turned by 90 degrees about y, with camera centre -R^T t = (-2, 0.5, 0.25)."""
WIDTH, HEIGHT = 64, 36


def write_clip(folder: Path, key: str, frames: int = 5, missing: tuple[int, ...] = ()) -> np.ndarray:
    """A clip whose camera slides along x; its pictures are a horizontal ramp that tells the column. Poses [F, 4, 4]."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = 0.1 * np.arange(frames)
    lines = ["https://www.youtube.com/watch?v=" + key]
    (folder / key).mkdir(parents=True)
    for frame, pose in enumerate(poses):
        matrix = " ".join(f"{v:.9f}" for v in np.linalg.inv(pose)[:3].ravel())
        lines.append(f"{1000 * frame} 0.5 0.888888889 0.5 0.5 0.0 0.0 {matrix}")
        picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        picture[..., 0] = 3 * np.arange(WIDTH)
        picture[..., 1] = 40 * frame
        if frame not in missing:
            Image.fromarray(picture).save(folder / key / f"{1000 * frame}.png")
    (folder / f"{key}.txt").write_text("\n".join(lines) + "\n")
    return poses


def test_a_hand_written_file_is_read_by_its_definition(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(HAND)
    found = read_camera_file(tmp_path / "a.txt")
    assert found.url.endswith("abc") and found.timestamps == ("52553000", "52586000")
    assert np.allclose(found.world_from_camera[0], np.eye(4))
    assert np.allclose(found.world_from_camera[1, :3, 3], [-2, 0.5, 0.25])
    assert np.allclose(found.world_from_camera[1, :3, 2], [1, 0, 0])  # looks along x: third row of the rotation
    assert np.allclose(found.intrinsics, [[0.5, 0.9, 0.5, 0.5]] * 2)


def test_a_point_keeps_its_place_in_the_cropped_picture() -> None:
    point = np.array([0.3, -0.2, 2.0])
    whole = pinhole(0.5 * WIDTH, 0.9 * HEIGHT, 0.48 * WIDTH, 0.53 * HEIGHT)
    u, v = WIDTH * (0.5 * point[0] / point[2] + 0.48), HEIGHT * (0.9 * point[1] / point[2] + 0.53)  # of the whole picture
    square = fit_intrinsics(whole, (HEIGHT, WIDTH), (18, 18))
    pixel = square @ (point / point[2])
    assert pixel[:2] == pytest.approx([(u - (WIDTH - HEIGHT) / 2) / 2, v / 2])  # cropped left and right, then halved


def test_a_clip_becomes_an_episode(tmp_path: Path) -> None:
    poses = write_clip(tmp_path, "k")
    episode = read_clip(tmp_path / "k.txt", HEIGHT)
    assert episode.rgb.shape == (5, HEIGHT, HEIGHT, 3) and episode.truth is None
    assert (episode.rgb[2, 7, :, 0] == 3 * np.arange(14, 50)).all() and (episode.rgb[:, 0, 0, 1] == 40 * np.arange(5)).all()
    assert np.allclose(episode.world_from_camera, poses, atol=1e-6)
    assert episode.intrinsics == pytest.approx(np.array([[32.0, 0, 18], [0, 32, 18], [0, 0, 1]]), abs=1e-4)
    moved = torch.from_numpy(poses[:-1]).float() @ se3_exp(torch.from_numpy(episode.action))
    assert torch.allclose(moved, torch.from_numpy(poses[1:]).float(), atol=1e-5)
    chosen = read_clip(tmp_path / "k.txt", 16, [4, 1])
    assert chosen.rgb.shape == (2, 16, 16, 3) and chosen.rgb[0, 0, 0, 1] == 160 and chosen.meta["frames"] == [4, 1]


def test_clips_are_imported_once_and_broken_ones_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_clip(tmp_path / "clips", "a")
    write_clip(tmp_path / "clips", "b", missing=(1, 3))
    write_clip(tmp_path / "clips", "c", frames=3)
    out = tmp_path / "out"
    assert run(["import", str(tmp_path / "clips"), f"out={out}", "size=16"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "2 of 5 frames have no picture, the first is 1000.png" in shown and "2 episodes of 16 x 16, 1 clips left out" in shown
    )
    reader = EvaluationReader(out)
    assert [e.meta["clip"] for e in reader] == ["a", "c"] and len(TrainingReader(out)) == 2
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")}
    assert import_dataset(tmp_path / "clips", out, "realestate", Settings((16, 16)))[0] == 2
    assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")} == before
    with pytest.raises(UserError, match="another dataset"):
        import_dataset(tmp_path / "clips", out, "realestate", Settings((32, 32)))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "not a camera file"),
        ("https://x\n", "no line of numbers"),
        ("https://x\n1 0.5 0.5\n", "line 2: expected a timestamp"),
        ("https://x\n" + "1 " + "0.5 " * 4 + "0 0 " + "nan " * 12, "holds nan"),
        (HAND.replace("0 1 0 -0.5 1", "0 3 0 -0.5 1"), "not orthonormal"),
    ],
)
def test_files_of_another_format_are_one_line(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=line):
        read_camera_file(tmp_path / "a.txt")


def test_a_camera_that_zooms_and_a_picture_that_is_none_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path, "k", frames=2)
    text = (tmp_path / "k.txt").read_text()
    (tmp_path / "k" / "1000.png").write_text("no picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read_clip(tmp_path / "k.txt", 16)
    write_clip(tmp_path / "z", "k", frames=2)
    (tmp_path / "z" / "k.txt").write_text(text.replace("1000 0.5 ", "1000 0.6 "))
    with pytest.raises(UserError, match="intrinsics: changed at frame 1"):
        read_clip(tmp_path / "z" / "k.txt", 16)


BODY = HAND.partition("\n")[2]


@pytest.mark.parametrize(
    ("content", "url"),
    [
        (BODY, ""),
        ("\n" + BODY, ""),
        ("\ufeff" + HAND, "https://www.youtube.com/watch?v=abc"),
        ("\ufeff" + BODY, ""),
        (HAND.replace("\n", "\r\n"), "https://www.youtube.com/watch?v=abc"),
        ("\r\n" + BODY.replace("\n", "\r\n\r\n"), ""),
        ("\n\n" + HAND.replace("\n", "\n \n") + "\n\n", "https://www.youtube.com/watch?v=abc"),
        ("youtube.com/watch?v=abc\n" + BODY.rstrip(), "youtube.com/watch?v=abc"),
    ],
)
def test_files_as_other_tools_write_them_give_all_their_frames(tmp_path: Path, content: str, url: str) -> None:
    (tmp_path / "a.txt").write_bytes(content.encode())
    found = read_camera_file(tmp_path / "a.txt")
    assert (found.url, found.timestamps) == (url, ("52553000", "52586000"))
    assert np.allclose(found.world_from_camera[1, :3, 3], [-2, 0.5, 0.25])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("timestamp fx fy cx cy\n" + BODY, "line 1 is no URL: expected one, or a frame"),
        ("\n# cameras\n" + BODY, "line 2 is no URL"),
        (BODY.replace("52553000 0.5", "52553000", 1), "line 1: expected a timestamp"),
        (HAND.replace("52586000", "52553000"), "timestamp 52553000 stands in several lines"),
        (HAND.replace("0.5 0.9 0.5 0.5", "640 648 640 360"), "line 2: fx fy cx cy = 640 648 640 360 are pixels: expected sha"),
        (HAND.replace("0.5 0.5 0.0 0.0", "0.5 0.5 0.1 0.0", 1), "line 2: distortion 0.1 0.0: expected two zeros"),
        (HAND.replace("1 0 0 0 0 1 0 0 0 0 1 0", "-1 0 0 0 0 1 0 0 0 0 1 0"), "frame 0 is mirrored"),
        ("\xff\xfe", "line 1 is no URL"),
    ],
)
def test_what_a_camera_file_cannot_mean_is_refused(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(UserError, match=line) as caught:
        read_camera_file(tmp_path / "a.txt")
    assert str(tmp_path / "a.txt") in str(caught.value)


def picture_of(mode: str) -> tuple[Image.Image, np.ndarray]:
    """A picture of 6 x 6 in a mode, and what it shows: [6, 6, 3] uint8."""
    shown = np.random.default_rng(3).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    grey, alpha = shown[..., :1].repeat(3, 2), (shown[..., 2] > 100).astype(np.uint8) * 255
    if mode == "16 bits":
        return Image.fromarray(grey[..., 0].astype(np.uint16) * 257), grey
    if mode == "grey":
        return Image.fromarray(grey[..., 0]), grey
    if mode == "palette":
        few = shown & 0xC0
        return Image.fromarray(few).quantize(64), few
    if mode == "bits":
        return Image.fromarray(shown[..., 0] > 99), (shown[..., :1] > 99).repeat(3, 2) * np.uint8(255)
    if mode == "alpha":
        return Image.fromarray(np.dstack([shown, alpha])), shown * (alpha > 0)[..., None]
    if mode == "grey alpha":
        return Image.fromarray(np.dstack([grey[..., 0], alpha])), grey * (alpha > 0)[..., None]
    return Image.fromarray(shown), shown


@pytest.mark.parametrize("mode", ["colour", "16 bits", "grey", "palette", "bits", "alpha", "grey alpha"])
def test_pictures_of_every_mode_look_as_they_are_meant_to(tmp_path: Path, mode: str) -> None:
    picture, shown = picture_of(mode)
    picture.save(tmp_path / "a.png")
    found = np.asarray(read_picture(tmp_path / "a.png"))
    assert found.shape == (6, 6, 3) and found.dtype == np.uint8
    if mode == "palette":
        assert np.abs(found.astype(int) - shown).max() <= 4  # as Pillow chose its palette
    else:
        assert np.array_equal(found, shown)


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of some bytes whose header claims a size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (png_that_claims(10_000, 10_000), "10000 x 10000 pixels, expected a picture of at most"),
        (png_that_claims(60_000, 60_000), "cannot be read as a picture"),
        (png_that_claims(2**31 - 1, 2**31 - 1), "cannot be read as a picture"),
        (png_that_claims(0, 5), "cannot be read as a picture"),
        (png_that_claims(64, 64), "cannot be read as a picture"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read as a picture"),
        (b"", "cannot be read as a picture"),
    ],
)
def test_bombs_and_broken_pictures_are_one_line(tmp_path: Path, content: bytes, line: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UserError, match=line) as caught:
        read_picture(tmp_path / "a.png")
    assert str(tmp_path / "a.png") in str(caught.value) and "\n" not in str(caught.value)


def test_a_picture_without_a_range_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((6, 6), np.float32)).save(tmp_path / "a.tiff")
    (tmp_path / "a.tiff").rename(tmp_path / "a.png")
    with pytest.raises(UserError, match="mode F, whose range is not known"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".PNG", ".JPG", ".jpeg"])
def test_pictures_of_other_endings_are_found(tmp_path: Path, ending: str) -> None:
    write_clip(tmp_path, "k")
    for picture in (tmp_path / "k").iterdir():
        image = Image.open(picture)
        image.load()
        picture.unlink()
        image.save(picture.with_suffix(ending), "PNG" if ending == ".PNG" else "JPEG")
    assert len(read_clip(tmp_path / "k.txt", HEIGHT).rgb) == 5


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("old", "new", "words"), [("0.25", "inf", "frame 1 holds"), ("0.9", "0_9", "line 2: expected a")])
def test_numbers_that_are_none_are_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    (tmp_path / "a.txt").write_text(HAND.replace(old, new))
    with pytest.raises(UserError, match=words):
        read_camera_file(tmp_path / "a.txt")
