from __future__ import annotations

from pathlib import Path

import numpy as np
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


@pytest.mark.parametrize(("field", "value"), [(0, torch.nan), (0, 1e9), (1, 0.0), (2, torch.inf), (3, torch.nan), (4, 1e9)])
def test_what_could_not_be_read_is_not_written(tmp_path: Path, field: int, value: float) -> None:
    scene = one_scene(5)
    write_ply(tmp_path / "a.ply", *scene)
    before = (tmp_path / "a.ply").read_bytes()
    scene[field] = scene[field].clone()
    scene[field][3] = value
    with pytest.raises(UserError, match="primitive 3 of those whose opacity is not 0 is no Gaussian"):
        write_ply(tmp_path / "a.ply", *scene)
    assert (tmp_path / "a.ply").read_bytes() == before


def with_layout(content: bytes, names: list[str], kinds: dict[str, str]) -> bytes:
    """The same Gaussians as another tool writes them: properties in another order, of other types, and further ones."""
    header, body = content.split(b"end_header\n")
    old = [line.split()[-1] for line in header.decode().splitlines() if line.startswith("property")]
    rows = np.frombuffer(body, [(name, "<f4") for name in old])
    numpy_of = {"double": "<f8", "float": "<f4", "uchar": "u1", "int": "<i4"}
    table = np.zeros(len(rows), [(name, numpy_of[kinds.get(name, "float")]) for name in names])
    for name in set(names) & set(old):
        table[name] = rows[name]
    lines = ["ply", "format binary_little_endian 1.0", "comment end_header of another tool", f"element vertex {len(rows)}"]
    lines += [*(f"property {kinds.get(name, 'float')} {name}" for name in names), "end_header", ""]
    return "\n".join(lines).encode() + table.tobytes()


NAMES = ["rot_3", "rot_0", "f_rest_0", "rot_1", "rot_2", "scale_2", "scale_1", "scale_0", "opacity", "f_dc_2", "f_dc_1",
         "f_dc_0", "red", "z", "y", "x", "filter_3D"]  # fmt: skip


@pytest.mark.parametrize("ending", [b"\n", b"\r\n"])
@pytest.mark.parametrize("kinds", [{}, dict.fromkeys(NAMES, "double") | {"red": "uchar"}, {"f_rest_0": "int", "x": "double"}])
def test_what_other_tools_write_is_read(tmp_path: Path, kinds: dict[str, str], ending: bytes) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, *one_scene())
    expected = read_ply(path)
    head, marker, body = with_layout(path.read_bytes(), NAMES, kinds).rpartition(b"end_header\n")
    path.write_bytes((head + marker).replace(b"\n", ending) + body)
    for value, wanted in zip(read_ply(path), expected, strict=True):
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, wanted)
    faces = b"element face 1\nproperty list uchar int vertex_indices\n"
    path.write_bytes(head + faces + marker + body + b"\x03" + bytes(12))
    assert torch.equal(read_ply(path).means, expected.means)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:-1], "cut short"),
        (lambda content: content + b"\n", "not as its header says"),
        (lambda content: content.replace(b"binary_little_endian", b"ascii"), "binary_little_endian 1.0, got 'ascii 1.0'"),
        (lambda content: content.replace(b"little", b"big"), "got 'binary_big_endian 1.0'"),
        (lambda content: content.replace(b"format", b"comment"), "binary_little_endian"),
        (lambda content: content.replace(b"opacity", b"density"), "lack opacity"),
        (lambda content: b"\x89PNG" + content, "not a PLY"),
        (lambda content: b"", "not a PLY"),
        (lambda content: content.replace(b"end_header", b"end header"), "not a PLY"),
        (lambda content: content.replace(b"property float x", b"property list uchar int x"), "lists: 'property list uchar"),
        (lambda content: content.replace(b"property float x", b"property half x"), "got 'property half x'"),
        (lambda content: content.replace(b"float nx", b"float x"), "property 'x' twice"),
        (lambda content: content.replace(b"vertex 20", b"vertex 99999999999999"), "cut short"),
        (lambda content: content.replace(b"vertex 20", b"vertex " + b"9" * 5000), "with a count"),
        (lambda content: content.replace(b"vertex 20", b"vertex -2"), "with a count"),
        (lambda content: content.replace(b"vertex 20", b"vertex"), "with a count"),
        (lambda content: content.replace(b"element vertex", b"element face 0\nelement vertex"), "first element is vertex"),
        (lambda content: content.replace(b"ply\n", b"ply\n" + b"comment \xff\n" * 9000), "no end within"),
        (lambda content: content.replace(b"\n", b"\r", 21), "not a PLY|no end within|format"),
    ],
)
def test_foreign_and_damaged_files(tmp_path: Path, damage, words: str) -> None:
    write_ply(tmp_path / "a.ply", *one_scene())
    (tmp_path / "a.ply").write_bytes(damage((tmp_path / "a.ply").read_bytes()))
    with pytest.raises(UserError, match=words) as caught:
        read_ply(tmp_path / "a.ply")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("x", float("nan"), "its x is nan"),
        ("z", float("-inf"), "its z is -inf"),
        ("y", 1e30, r"its y is 1e\+30"),
        ("scale_1", 88.0, "its scale_1 is 88"),
        ("scale_2", float("inf"), "its scale_2 is inf"),
        ("f_dc_0", -1e20, "its f_dc_0 is"),
        ("opacity", float("nan"), "its opacity is nan"),
        ("rot_2", float("nan"), "its rot_2 is nan"),
        ("rot_", 0.0, r"its quaternion rot_0, rot_1, rot_2, rot_3 is \[0.0, 0.0, 0.0, 0.0\]"),
    ],
)
def test_rows_that_are_no_gaussians_are_named(tmp_path: Path, column: str, value: float, words: str) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, *one_scene())
    head, marker, body = path.read_bytes().rpartition(b"end_header\n")
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("property")]
    table = np.frombuffer(body, "<f4").reshape(20, len(names)).copy()
    table[13, [k for k, name in enumerate(names) if name.startswith(column)]] = value
    path.write_bytes(head + marker + table.tobytes())
    with pytest.raises(UserError, match=f"row 13 .*{words}"):
        read_ply(path)


def test_whatever_byte_changes_a_file_is_refused_or_holds_gaussians(tmp_path: Path) -> None:
    path, draw = tmp_path / "a.ply", np.random.default_rng(11)
    write_ply(path, *one_scene(6))
    whole = path.read_bytes()
    header, refused = whole.index(b"end_header") + 11, 0
    for trial in range(600):
        content = bytearray(whole)
        for _ in range(int(draw.integers(1, 4))):
            at = int(draw.integers(header if trial % 2 else len(content)))
            content[at : at + int(draw.integers(2))] = bytes(draw.integers(256, size=int(draw.integers(1, 3)), dtype=np.uint8))
        path.write_bytes(content if trial % 5 else content[: int(draw.integers(len(content)))])
        try:
            found = read_ply(path)
        except UserError:
            refused += 1
            continue
        assert all(value.isfinite().all() for value in found)
        assert ((found.quats.norm(dim=-1) - 1).abs() < 1e-5).all() and ((found.opacities >= 0) & (found.opacities <= 1)).all()
    assert 300 < refused < 600


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ply", tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            read_ply(path)
