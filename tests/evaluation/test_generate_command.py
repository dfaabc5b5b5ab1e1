"""`liftwm generate` on the real command line, with a model whose figures can be computed by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from embodied_liftwm import cli
from tests.toy_room import write_dataset

MODEL = "model=tests.plain_model:make_model"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """48 x 40, black and white halves."""
    pixels = np.zeros((40, 48, 3), np.uint8)
    pixels[:, 24:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_a_picture_and_a_path_give_a_video(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert cli.main(["generate", MODEL, f"first_frame={picture}", "path=yaw-40", "steps=2", f"out={out}", "bootstrap=5"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "40 x 48, cropped to its middle and resized to 32 x 32, which the model takes" in shown
    written = ["metrics.json", "picture.png", "rows.csv", "video.mp4"]
    assert sorted(path.name for path in out.iterdir()) == sorted([".lock", "config.yaml", "versions.txt", *written])
    with av.open(str(out / "video.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == 5 and frames[0].shape == (256, 256, 3)
    assert frames[0][:, :100].mean() < 10 and frames[0][:, 156:].mean() > 245  # the given frame
    assert frames[4].std() < 5 and frames[4].mean() == pytest.approx(127, abs=4)  # its mean colour
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["closure_psnr"] == pytest.approx(10 * np.log10(4), abs=0.4)  # grey against black and white
    assert metrics["hole_rate"] == [1.0] * 4 and metrics["steps"] == 4
    assert metrics["command"].startswith(f"liftwm generate {MODEL} first_frame=")
    with (out / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["revisits"] for row in rows] == ["-1", "-1", "1", "0"] and rows[3]["psnr"] == "nan"
    assert Image.open(out / "picture.png").size[0] > 4 * 256


@pytest.mark.parametrize(
    ("model", "words", "shape", "said"),
    [
        ("make_wide", (), (32, 48), "resized to 32 x 48, which the model takes"),
        ("make_any", ("size=48x32",), (48, 32), "resized to 48 x 32, which size= asks for"),
        ("make_any", (), (40, 48), ""),
    ],
)
def test_a_picture_may_have_any_proportions(
    model: str, words: tuple[str, ...], shape: tuple[int, int], said: str, picture: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    asked = [f"model=tests.plain_model:{model}", f"first_frame={picture}", "path=yaw-40", "steps=2", "bootstrap=5", *words]
    assert cli.main(["generate", *asked, f"out={out}"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (said in shown and "cropped to its middle" in shown) if said else "cropped" not in shown
    with av.open(str(out / "video.mp4")) as video:
        first = next(iter(video.decode(video=0))).to_ndarray(format="rgb24")
    assert first.shape[0] / first.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.02)
    assert first[:, : first.shape[1] // 2 - 20].mean() < 10 and first[:, first.shape[1] // 2 + 20 :].mean() > 245
    left_out = json.loads((out / "metrics.json").read_text())["left_out"]
    assert [entry["name"] for entry in left_out] == ["figures against truth"]


def test_a_dataset_s_own_path_brings_its_truth(tmp_path: Path) -> None:
    data, out = write_dataset(tmp_path / "data", episodes=2, steps=5), tmp_path / "out"
    assert cli.main(["generate", MODEL, f"data={data}", "path=recorded", "episodes=0", f"out={out}", "bootstrap=5"]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["videos"] == 2 and metrics["figures"]["psnr"]["count"] == 10
    assert metrics["figures"]["abs_rel"]["mean"] > 0
    assert set(metrics["drift"]["step"]["psnr"]) == {"1-4", "5-8"}


def test_mistakes_are_one_line_and_leave_nothing(picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_dataset(tmp_path / "data", episodes=1, steps=4, size=16), tmp_path / "out"
    (tmp_path / "torn.png").write_bytes(picture.read_bytes()[:60])
    frame = f"first_frame={picture}"
    for words, line in (
        ([], "give first_frame=PICTURE or data=DATASET"),
        ([frame, f"data={data}"], "and not both"),
        (["first_frame=none.png"], "first_frame=none.png: no such picture"),
        (["first_frame=a.gif"], "expected a picture .png"),
        ([f"first_frame={tmp_path / 'torn.png'}"], "cannot be read as a picture"),
        ([frame, "path=yav-90"], "path=yav-90: no such path, did you mean 'yaw-90'?"),
        ([frame, "path=none.npy"], "no such file"),
        ([frame, "path=recorded"], "needs data=DATASET"),
        ([frame, "size=wide"], "size=wide: expected pixels, as in 64, or height x width, as in 48x64"),
        ([frame, "size=8x16"], "size=8x16: expected 16 to 2048 pixels a side"),
        ([frame, "size=32x48"], "size=32x48: model tests.plain_model:make_model takes frames of 32, leave size= out"),
        ([frame, "steps=0"], "steps=0: must be at least 1"),
        ([frame, "fov_deg=200"], "fov_deg=200"),
        ([f"data={data}", "episode=3"], "holds 1, counted from 0"),
        ([f"data={data}", "frame=9"], "has frames 0 to 4"),
        ([f"data={data}"], "has images of 16x16, model tests.plain_model:make_model is for 32x32"),
    ):
        assert cli.main(["generate", MODEL, f"out={out}", *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("liftwm: error: ") and error.count("\n") == 1 and line in error
    assert not out.exists() or not list(out.iterdir())
