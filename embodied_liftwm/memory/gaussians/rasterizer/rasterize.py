"""One call that renders Gaussians, whatever the machine."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.memory.gaussians.rasterizer.projection import project_gaussians
from embodied_liftwm.memory.gaussians.rasterizer.validation import check_inputs

Backend = Literal["auto", "torch", "numba", "gsplat"]


class Rasterization(NamedTuple):
    """What the views show; everything is premultiplied by alpha."""

    features: Tensor  # [B, V, H, W, C] sum of weight * feature, over nothing: divide by alphas for the mean
    alphas: Tensor  # [B, V, H, W, 1] sum of weights, in [0, 1)
    depths: Tensor  # [B, V, H, W, 1] sum of weight * z-depth in metres: divide by alphas for the expected depth


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    features: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    backend: Backend = "auto",
    near: float = 0.01,
    eps2d: float = 0.3,
    validate: bool = True,
) -> Rasterization:
    """Splat 3D Gaussians into views.

    gsplat's conventions and cut-offs: perspective EWA projection, `eps2d` added to the projected covariance, pixel centres at
    half-integers, front-to-back compositing by depth of the means, alpha capped at 0.999, contributions under 1/255 skipped,
    a pixel finished before its transmittance falls to 1e-4. Gradients reach every tensor, cameras included (on `gsplat` not
    Ks), and can be differentiated again: on `numba` that costs what `torch` does, on `gsplat` it is refused. Primitives of
    opacity 0 cost nearly nothing and may hold anything finite.

    Args:
        means: world, metres. [B, N, 3]
        quats: wxyz, unit. [B, N, 4]
        scales: standard deviations along the primitive's axes, metres, not negative. [B, N, 3]
        opacities: in [0, 1]. [B, N]
        features: any number of channels. [B, N, C]
        viewmats: camera from world, OpenCV. [B, V, 4, 4]
        Ks: pinhole intrinsics in pixels; skew is ignored. [B, V, 3, 3]
        width: of the images, pixels.
        height: of the images, pixels.
        backend: "torch" (reference, any device), "numba" (CPU), "gsplat" (CUDA), or "auto": the fastest that is installed.
        near: primitives whose mean is nearer are culled, metres.
        eps2d: square pixels.
        validate: check shapes and values, which costs a pass over the inputs; switch off in hot loops.

    Raises:
        UserError: a wrong shape, dtype or device, values that are not finite, quaternions that are not unit, opacities or
            scales out of range, a backend that this machine lacks, or second derivatives of one that has none.
    """
    if validate:
        check_inputs(means, quats, scales, opacities, features, viewmats, Ks, width, height)
    chosen = choose_backend(means.device, backend, means.dtype, Ks.requires_grad)
    with torch.autocast(means.device.type, enabled=False):
        if chosen == "gsplat":
            from embodied_liftwm.memory.gaussians.rasterizer.gsplat_backend import render

            inputs = (means, quats, scales, opacities, features, viewmats, Ks)
            return Rasterization(*render(*inputs, width, height, near, eps2d))
        if chosen == "numba":
            from embodied_liftwm.memory.gaussians.rasterizer.numba_backend import paint
        else:
            from embodied_liftwm.memory.gaussians.rasterizer.torch_backend import paint
        projection = project_gaussians(means, quats, scales, opacities, viewmats, Ks, width, height, near, eps2d)
        return Rasterization(*paint(projection, opacities, features, width, height))


def choose_backend(
    device: torch.device, backend: Backend = "auto", dtype: torch.dtype = torch.float32, gradient_of_Ks: bool = False
) -> str:
    """The backend `rasterize` takes: "torch", "numba" or "gsplat".

    Raises:
        UserError: the backend is unknown, not installed, or cannot do this.
    """
    if backend not in ("auto", "torch", "numba", "gsplat"):
        raise UserError(f"backend={backend!r}: expected 'auto', 'torch', 'numba' or 'gsplat'")
    if backend == "auto":
        for candidate in ("gsplat", "numba"):
            if not _why_not(candidate, device, dtype, gradient_of_Ks):
                return candidate
        _warn_slow(device.type)
        return "torch"
    obstacle = _why_not(backend, device, dtype, gradient_of_Ks)
    if obstacle:
        raise UserError(f"backend={backend!r}: {obstacle}")
    return backend


def _why_not(backend: str, device: torch.device, dtype: torch.dtype, gradient_of_Ks: bool) -> str:
    """What keeps a backend from doing this; empty when nothing does."""
    kind = {"gsplat": "cuda", "numba": "cpu", "torch": device.type}[backend]
    if device.type != kind:
        return f"runs on {kind}, got tensors on {device}"
    if backend == "gsplat" and gradient_of_Ks:
        return "gives no gradient to Ks; use backend='torch', or detach Ks"
    if backend == "gsplat" and dtype != torch.float32:
        return f"takes float32, got {dtype}; use backend='torch'"
    if not _installed(backend):
        return f"{backend} is not installed; pip install {backend}, or use backend='torch'"
    return ""


@cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@cache
def _warn_slow(device: str) -> None:
    """Say it once a process."""
    missing = "numba" if device == "cpu" else "gsplat"
    print(f"rasterize: {missing} is not in use on {device}; the torch reference is many times slower", file=sys.stderr)
