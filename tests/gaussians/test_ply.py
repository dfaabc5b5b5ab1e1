from __future__ import annotations

from pathlib import Path

import pytest
import torch

from embodied_liftwm.errors import UserError
from embodied_liftwm.gaussians import read_ply, write_ply
from tests.gaussians.scenes import random_scene


def one_scene(count: int = 20) -> list[torch.Tensor]:
    scene = random_scene(count, batch=1, channels=3)
    return [scene[name][0].detach() for name in ("means", "quats", "scales", "opacities", "features")]


def test_round_trip(tmp_path: Path) -> None:
    written = one_scene()
    assert write_ply(tmp_path / "scene.ply", *written) == 20
    for value, expected in zip(read_ply(tmp_path / "scene.ply"), written):
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["scene.ply"]


def test_layout_is_that_of_3dgs(tmp_path: Path) -> None:
    """Header, and the stored parametrisation: logit, log, C0 = 0.2820948."""
    write_ply(
        tmp_path / "one.ply",
        torch.tensor([[1.0, 2.0, 3.0]]),
        torch.tensor([[1.0, 0.0, 0.0, 0.0]]),
        torch.full((1, 3), 0.1),
        torch.tensor([0.5]),
        torch.tensor([[0.5, 1.0, 0.0]]),
    )
    header, body = (tmp_path / "one.ply").read_bytes().split(b"end_header\n")
    names = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property float")]
    expected_names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    expected_names += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == expected_names
    row = torch.frombuffer(bytearray(body), dtype=torch.float32)
    expected = [1, 2, 3, 0, 0, 0, 0, 0.5 / 0.28209479, -0.5 / 0.28209479, 0, -2.3025851, -2.3025851, -2.3025851, 1, 0, 0, 0]
    torch.testing.assert_close(row, torch.tensor(expected))


def test_empty_slots_are_left_out_and_extremes_survive(tmp_path: Path) -> None:
    means, quats, scales, opacities, rgb = one_scene(4)
    opacities = torch.tensor([0.0, 1.0, 0.3, 0.0])
    scales[1] = 0.0
    assert write_ply(tmp_path / "a.ply", means, quats, scales, opacities, rgb) == 2
    read = read_ply(tmp_path / "a.ply")
    assert all(value.isfinite().all() for value in read)
    torch.testing.assert_close(read.opacities, torch.tensor([1.0, 0.3]), atol=1e-5, rtol=0)
    assert write_ply(tmp_path / "b.ply", means, quats, scales, torch.zeros(4), rgb) == 0
    assert read_ply(tmp_path / "b.ply").means.shape == (0, 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-1], "cut short"),
        (lambda content: content.replace(b"binary_little_endian", b"ascii"), "binary_little_endian"),
        (lambda content: content.replace(b"opacity", b"density"), "lack opacity"),
        (lambda content: b"\x89PNG" + content, "not a PLY"),
        (lambda content: b"", "not a PLY"),
        (lambda content: content.replace(b"property float x", b"property list uchar int x"), "lists"),
    ],
)
def test_foreign_and_damaged_files(tmp_path: Path, damage, words: str) -> None:
    write_ply(tmp_path / "a.ply", *one_scene())
    (tmp_path / "a.ply").write_bytes(damage((tmp_path / "a.ply").read_bytes()))
    with pytest.raises(UserError, match=words):
        read_ply(tmp_path / "a.ply")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_ply(tmp_path / "none.ply")
