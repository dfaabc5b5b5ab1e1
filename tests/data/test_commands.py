"""`liftwm data`: the exit code of a check, the options of play, and a video that shows the episode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from embodied_liftwm.commands.data import run
from embodied_liftwm.data.video import write_mp4
from embodied_liftwm.errors import UserError

Make = Callable[..., Path]


def test_info_says_what_is_there(make_dataset: Make, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(make_dataset(9, 11))]) == 0
    shown = capsys.readouterr().out
    assert "22 of 16 x 16" in shown
    assert "50 %" in shown


def test_check_exits_with_1_and_names_the_file(make_dataset: Make, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_dataset(9, 11)
    assert run(["check", str(folder)]) == 0
    damaged = folder / "episode-00000001.h5"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    assert run(["check", str(folder)]) == 1
    assert str(damaged) in capsys.readouterr().out


def test_play_writes_a_video_of_the_episode(make_dataset: Make, tmp_path: Path) -> None:
    out = tmp_path / "films" / "one.mp4"
    assert run(["play", str(make_dataset(9, 11)), "episode=1", f"out={out}"]) == 0
    with av.open(str(out)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert len(frames) == 12
    assert frames[0].shape == (256, 256, 3)


@pytest.mark.parametrize("size", [(16, 16), (15, 21), (300, 300), (301, 301)])
def test_videos_of_any_size_show_the_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    picture = np.zeros((3, *size, 3), np.uint8)
    picture[:, : size[0] // 2, :, 0] = 200  # red above, blue below
    picture[:, size[0] // 2 :, :, 2] = 200
    height, width = write_mp4(tmp_path / "a.mp4", picture)
    assert min(height, width) >= 256
    assert height % 2 == width % 2 == 0
    with av.open(str(tmp_path / "a.mp4")) as video:
        shown = next(video.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert shown[height // 4].mean(0) == pytest.approx([200, 0, 0], abs=25)
    assert shown[3 * height // 4].mean(0) == pytest.approx([0, 0, 200], abs=25)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["info"], "takes one dataset folder, got 0"),
        (["info", "a", "b"], "takes one dataset folder, got 2"),
        (["info", "a", "episode=1"], "unknown option 'episode' of data info"),
        (["play", "DATA", "episod=1"], "did you mean 'episode'"),
        (["play", "DATA", "episode=2"], "holds 2, counted from 0"),
        (["play", "DATA", "episode=x"], "expected a whole number"),
        (["play", "DATA", "out=film.avi"], r"must end in \.mp4"),
        (["check", "nowhere"], "no dataset at nowhere"),
    ],
)
def test_mistakes_are_one_line(make_dataset: Make, words: list[str], line: str) -> None:
    folder = str(make_dataset(9, 11))
    with pytest.raises(UserError, match=line):
        run([folder if word == "DATA" else word for word in words])


@pytest.mark.parametrize("folder", ["seed=3/data", "data=1", "episode=1", "a b=[/x]/c", "out=2/episode=0"])
def test_folders_whose_paths_hold_an_equals_sign(
    make_dataset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
    make_dataset(9, 11).rename(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    assert run(["info", folder]) == run(["check", folder]) == 0
    assert folder in capsys.readouterr().out
    assert run(["play", folder, "episode=1", f"out={folder}/film.mp4"]) == 0
    assert (tmp_path / folder / "film.mp4").is_file()
    with pytest.raises(UserError, match="of no format that can be imported"):
        run(["import", folder, "size=16", "out=x"])


def test_options_stay_options(make_dataset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_dataset(9).name
    (tmp_path / "fps=4").mkdir()
    assert run(["play", "fps=3", folder, "out=a=b.mp4"]) == 0, "an option may stand before the folder"
    assert (tmp_path / "a=b.mp4").is_file()
    with pytest.raises(UserError, match="no dataset at seed=4"):
        run(["info", "seed=4"])
    with pytest.raises(UserError, match="unknown option 'seed' of data play"):
        run(["play", folder, "seed=4"])
