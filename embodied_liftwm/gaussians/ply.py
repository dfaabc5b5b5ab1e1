"""Gaussians to and from the PLY layout of 3D Gaussian Splatting (Kerbl et al. 2023, arXiv:2308.04079), which viewers read.

The file holds what that code optimises: log scales, opacity logits, quaternions wxyz, and colour as the constant term of
spherical harmonics, rgb = 0.5 + C0 f_dc.
"""

from __future__ import annotations

import math
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
_OPACITY_MARGIN = 1e-6
_SCALE_MIN_M = 1e-12
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
    """
    columns = [means, torch.zeros_like(means), (rgb - 0.5) / _C0, _logit(opacities)[:, None], _log_scale(scales), quats]
    table = torch.cat([column.detach().float().cpu() for column in columns], dim=-1)[(opacities > 0).cpu()]
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    header += [*(f"property float {name}" for name in _LAYOUT), "end_header", ""]
    write_bytes(path, "\n".join(header).encode() + table.numpy().astype("<f4").tobytes())
    return len(table)


def read_ply(path: str | Path) -> PlyGaussians:
    """Read a binary 3DGS PLY; further properties (normals, higher harmonics) are left out.

    Raises:
        UserError: no such file, not a little-endian binary PLY, cut short, or without the properties of 3DGS.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    vertices = _parse(content, path)
    missing = [name for name in _LAYOUT if name not in (vertices.dtype.names or ()) and not name.startswith("n")]
    if missing:
        raise UserError(f"{path}: not a 3D Gaussian Splatting PLY, its vertices lack {', '.join(missing)}")

    def columns(names: list[str]) -> Tensor:
        return torch.from_numpy(np.stack([vertices[name].astype(np.float32) for name in names], axis=-1))

    return PlyGaussians(
        means=columns(["x", "y", "z"]),
        quats=torch.nn.functional.normalize(columns(_ROTATION), dim=-1),
        scales=columns(_SCALE).exp(),
        opacities=columns(["opacity"]).squeeze(-1).sigmoid(),
        rgb=0.5 + _C0 * columns(_COLOUR),
    )


def _parse(content: bytes, path: str | Path) -> np.ndarray:
    """The vertices of a PLY file, a structured array."""
    head, marker, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", errors="replace").split("\n")
    if lines[0].strip() != "ply" or not marker:
        raise UserError(f"{path}: not a PLY file")
    words = [line.split() for line in lines]
    if ["format", "binary_little_endian", "1.0"] not in words:
        raise UserError(f"{path}: expected a PLY of format binary_little_endian 1.0")
    elements = [word for word in words if word[:1] == ["element"]]
    if not elements or elements[0][1] != "vertex":
        raise UserError(f"{path}: expected a PLY whose first element is vertex")
    start = words.index(elements[0])
    end = words.index(elements[1]) if len(elements) > 1 else len(words)
    properties = [word for word in words[start:end] if word[:1] == ["property"]]
    if any(len(word) != 3 or word[1] not in _TYPES for word in properties):
        raise UserError(f"{path}: expected vertices of plain numbers, not lists")
    layout = np.dtype([(name, _TYPES[kind]) for _, kind, name in properties])
    count = int(elements[0][2])
    if len(body) < count * layout.itemsize:
        raise UserError(f"{path}: cut short: {count} vertices need {count * layout.itemsize} bytes, found {len(body)}")
    return np.frombuffer(body, layout, count)


def _logit(opacities: Tensor) -> Tensor:
    return torch.logit(opacities.detach().double(), eps=_OPACITY_MARGIN)


def _log_scale(scales: Tensor) -> Tensor:
    return scales.detach().clamp(min=_SCALE_MIN_M).log()
