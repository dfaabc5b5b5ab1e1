"""What `rasterize` accepts."""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError

_LAYOUT = {
    "means": ("B", "N", 3), "quats": ("B", "N", 4), "scales": ("B", "N", 3), "opacities": ("B", "N"),
    "features": ("B", "N", "C"), "viewmats": ("B", "V", 4, 4), "Ks": ("B", "V", 3, 3),
}  # fmt: skip


def check_inputs(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
) -> None:
    """Raise a `UserError` that names the first argument at fault, with what was expected and what came."""
    if width < 1 or height < 1:
        raise UserError(f"rasterize: expected a width and height of at least 1 px, got {width} x {height}")
    tensors = dict(zip(_LAYOUT, (means, quats, scales, opacities, features, viewmats, Ks), strict=True))
    _check_layout(tensors)
    if viewmats.shape[0] == 0 or viewmats.shape[1] == 0:
        raise UserError(f"rasterize: expected at least one scene and one view, got viewmats {list(viewmats.shape)}")
    for name, tensor in tensors.items():
        bad = int((~torch.isfinite(tensor)).sum())
        if bad:
            raise UserError(f"rasterize: expected finite {name}, got {bad} NaN or infinite values of {tensor.numel()}")
    _check_values(quats, scales, opacities)


def _check_layout(tensors: dict[str, Tensor]) -> None:
    """Shapes agree on B, N, V; one floating dtype and one device."""
    sizes: dict[str, int] = {}
    means = tensors["means"]
    for name, tensor in tensors.items():
        layout = _LAYOUT[name]
        expected = "[" + ", ".join(f"{axis}={sizes[axis]}" if axis in sizes else str(axis) for axis in layout) + "]"
        fits = tensor.dim() == len(layout) and all(
            size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size))
            for axis, size in zip(layout, tensor.shape, strict=True)
        )
        if not fits:
            raise UserError(f"rasterize: expected {name} {expected}, got {list(tensor.shape)}")
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != means.dtype:
            wanted = means.dtype if means.dtype == torch.float64 else torch.float32
            raise UserError(f"rasterize: expected {name} {wanted} like means, got {tensor.dtype}")
        if tensor.device != means.device:
            raise UserError(f"rasterize: expected {name} on {means.device} like means, got {tensor.device}")


def _check_values(quats: Tensor, scales: Tensor, opacities: Tensor) -> None:
    """Opacities in [0, 1], scales not negative, quaternions unit. Empty slots (opacity 0) may have any quaternion."""
    if ((opacities < 0) | (opacities > 1)).any():
        raise UserError(f"rasterize: expected opacities in [0, 1], got [{opacities.min():.4g}, {opacities.max():.4g}]")
    if (scales < 0).any():
        raise UserError(f"rasterize: expected scales in metres, at least 0, got {scales.min():.4g}")
    deviation = (quats.norm(dim=-1) - 1).abs() * (opacities > 0)
    if deviation.numel() and deviation.max() > 1e-3:
        index = int(deviation.argmax())
        norm = quats.reshape(-1, 4)[index].norm()
        raise UserError(f"rasterize: expected unit quaternions (wxyz), got norm {norm:.4g} at primitive {index}")
