"""Gaussians to and from the PLY layout of 3D Gaussian Splatting (Kerbl et al. 2023, arXiv:2308.04079), which viewers read.

The file holds what that code optimises: log scales, opacity logits, quaternions wxyz, and colour as the constant term of
spherical harmonics, rgb = 0.5 + C0 f_dc.
"""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import write_bytes

_C0 = 0.5 / math.sqrt(math.pi)
_COLOUR = [f"f_dc_{k}" for k in range(3)]
_SCALE = [f"scale_{k}" for k in range(3)]
_ROTATION = [f"rot_{k}" for k in range(4)]
_LAYOUT = ["x", "y", "z", "nx", "ny", "nz", *_COLOUR, "opacity", *_SCALE, *_ROTATION]
_MOST = 1e7
"""Positions and scales in metres, and stored numbers, beyond which a row is no Gaussian of any scene."""
_SHORTEST_QUATERNION = 1e-6
_LONGEST_HEADER = 1 << 16
_END = re.compile(rb"(?:(?<=\n)|(?<=\r))end_header[ \t]*(?:\r\n|\n)")
_TYPES = {
    "float": "<f4", "float32": "<f4", "double": "<f8", "float64": "<f8", "int": "<i4", "int32": "<i4", "uint": "<u4",
    "uint32": "<u4", "short": "<i2", "int16": "<i2", "ushort": "<u2", "uint16": "<u2", "char": "i1", "int8": "i1",
    "uchar": "u1", "uint8": "u1",
}  # fmt: skip


class PlyGaussians(NamedTuple):
    """What a 3DGS PLY file holds, in the units of `rasterize`. All float32."""

    means: Tensor  # [N, 3] world, metres
    quats: Tensor  # [N, 4] unit, wxyz
    scales: Tensor  # [N, 3] metres
    opacities: Tensor  # [N] in (0, 1)
    rgb: Tensor  # [N, 3]


def write_ply(path: str | Path, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, rgb: Tensor) -> int:
    """Write the primitives of one scene whose opacity is not 0, whole or not at all.

    Args:
        path: where to.
        means: [N, 3]. quats: [N, 4] wxyz. scales: [N, 3]. opacities: [N]. rgb: [N, 3] in [0, 1].

    Returns:
        How many primitives were written.

    Raises:
        UserError: numbers that are not finite, or a quaternion of length 0: no file that `read_ply` would refuse.
    """
    logits, sizes = torch.logit(opacities.detach().double(), eps=1e-6), scales.detach().clamp_min(1e-12).log()
    columns = [means, torch.zeros_like(means), (rgb - 0.5) / _C0, logits[:, None], sizes, quats]
    table = torch.cat([column.detach().float().cpu() for column in columns], dim=-1)
    table = table[(opacities != 0).cpu()]
    sound = (table.abs() <= _MOST).all(-1) & (scales[(opacities != 0)].detach().cpu() <= _MOST).all(-1)  # NaN is neither
    wrong = (~sound | (table[:, -4:].norm(dim=-1) < _SHORTEST_QUATERNION)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise UserError(f"{path}: primitive {row} of those whose opacity is not 0 is no Gaussian: {table[row].tolist()}")
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [*(f"property float {name}" for name in _LAYOUT), "end_header", ""]
    write_bytes(path, "\n".join(header).encode() + table.numpy().astype("<f4").tobytes())
    return len(table)


def read_ply(path: str | Path) -> PlyGaussians:
    """Read a binary 3DGS PLY; properties of any numeric type, in any order. Others (normals, higher harmonics) are left out.

    Raises:
        UserError: no such file, not a little-endian binary PLY, not as long as it says, without the properties of 3DGS, or a
            row that is no Gaussian: the row and the property are named.
    """
    try:
        vertices = _read_vertices(Path(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error

    def columns(names: list[str], most: float = _MOST) -> Tensor:
        return torch.from_numpy(np.stack([_column(path, vertices, name, most) for name in names], axis=-1))

    quats = columns(_ROTATION)
    lengths = quats.norm(dim=-1)
    if len(lengths) and lengths.min() < _SHORTEST_QUATERNION:
        row = int(lengths.argmin())
        found = f"its quaternion {', '.join(_ROTATION)} is {quats[row].tolist()}"
        raise UserError(f"{path}: row {row} (the first is 0) is no Gaussian: {found}")
    return PlyGaussians(
        means=columns(["x", "y", "z"]),
        quats=torch.nn.functional.normalize(quats, dim=-1),
        scales=columns(_SCALE, math.log(_MOST)).exp(),
        opacities=columns(["opacity"]).squeeze(-1).sigmoid(),
        rgb=0.5 + _C0 * columns(_COLOUR),
    )


def _column(path: str | Path, vertices: np.ndarray, name: str, most: float) -> np.ndarray:
    """One property of all rows as float32, none of which is NaN or absurd."""
    values = vertices[name].astype(np.float64)
    wrong = np.flatnonzero(~((values <= most) & (values >= -_MOST)))  # NaN is neither
    if len(wrong):
        row = int(wrong[0])
        found = f"its {name} is {values[row]:.4g}, expected a number of at most {most:.4g}"
        raise UserError(f"{path}: row {row} (the first is 0) is no Gaussian: {found}")
    return values.astype(np.float32)


def _read_vertices(path: Path) -> np.ndarray:
    """The vertices of a PLY file, a structured array with the properties of 3DGS."""
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER)
        end = _END.search(start)
        if not start.startswith((b"ply\n", b"ply\r")) or (end is None and len(start) < _LONGEST_HEADER):
            raise UserError(f"{path}: not a PLY file")
        if end is None:
            raise UserError(f"{path}: the header of this PLY has no end within {_LONGEST_HEADER} bytes")
        count, layout, more = _parse_header(start[: end.start()], path)
        found = os.fstat(file.fileno()).st_size - end.end()
        needed = count * layout.itemsize
        if found < needed or (found > needed and not more):
            what = "cut short" if found < needed else "not as its header says"
            raise UserError(f"{path}: {what}: {count} vertices need {needed} bytes, found {found}")
        file.seek(end.end())
        return np.fromfile(file, layout, count)


def _parse_header(header: bytes, path: Path) -> tuple[int, np.dtype, bool]:
    """How many vertices follow, how one is stored, and whether there is more after them."""
    lines = header.decode("latin-1").replace("\r\n", "\n").split("\n")
    words = [line.split() for line in lines[1:] if line.split() and line.split()[0] not in ("comment", "obj_info")]
    formats = [" ".join(word[1:]) for word in words if word[0] == "format"]
    if formats != ["binary_little_endian 1.0"]:
        raise UserError(f"{path}: expected a PLY of format binary_little_endian 1.0, got {_told(formats)}")
    elements = [number for number, word in enumerate(words) if word[0] == "element"]
    first = words[elements[0]] if elements else []
    if len(first) != 3 or first[1] != "vertex" or not re.fullmatch(r"\d{1,15}", first[2], re.ASCII):
        raise UserError(f"{path}: expected a PLY whose first element is vertex, with a count, got {_told(first)}")
    end = elements[1] if len(elements) > 1 else len(words)
    properties = words[elements[0] + 1 : end]
    for word in properties:
        if word[:2] == ["property", "list"]:
            raise UserError(f"{path}: expected vertices of plain numbers, not lists: {_told(word)}")
        if len(word) != 3 or word[0] != "property" or word[1] not in _TYPES:
            raise UserError(f"{path}: expected `property TYPE NAME` in the header, got {_told(word)}")
    names = [name for _, _, name in properties]
    missing = [name for name in _LAYOUT if name not in names and not name.startswith("n")]
    if missing:
        raise UserError(f"{path}: not a 3D Gaussian Splatting PLY, its vertices lack {', '.join(missing)}")
    if len(set(names)) < len(names):
        twice = [name for name in names if names.count(name) > 1][:1]
        raise UserError(f"{path}: its vertices have property {_told(twice)} twice")
    return int(first[2]), np.dtype([(name, _TYPES[kind]) for _, kind, name in properties]), len(elements) > 1


def _told(words: list[str]) -> str:
    """Words of a header as a message repeats them: printable, and cut where they are long."""
    return repr(" ".join(words)[:60])
