"""The arithmetic of a model's image networks: half precision and compilation, in place.

Only what works on images is touched: stacks of convolutions, where nearly all multiplications are. Between them lies geometry
(cameras, plane sweep, fusion, splatting), for which the eight bits of a bfloat16 are too few: pixel coordinates past 32 would
come in steps of a quarter, and a quarter of a pixel of disparity is a tenth of the depth. Names of parameters do not change.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from embodied_liftwm.errors import UserError
from embodied_liftwm.world_model.layers.blocks import Pyramid, ResidualBlock


def image_networks(model: nn.Module) -> Iterator[nn.Module]:
    """The outermost stacks of convolutions of a model; stems and heads of a single layer are left out."""
    for child in model.children():
        if isinstance(child, Pyramid | ResidualBlock | nn.Sequential):
            if any(isinstance(part, nn.Conv2d) for part in child.modules()):
                yield child
        else:
            yield from image_networks(child)


def use_bf16(model: nn.Module, device: str) -> None:
    """Have the image networks compute under autocast to bfloat16; their results and all weights stay float32."""
    kind = torch.device(device).type
    for network in image_networks(model):
        network.forward = _in_bf16(network.forward, kind)  # type: ignore[method-assign]


def _in_bf16(forward: Callable[[Tensor], Tensor], device_type: str) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        with torch.autocast(device_type, torch.bfloat16):
            return forward(x).float()

    return run


def use_compiler(model: nn.Module, device: str, backend: str = "inductor") -> None:
    """Have torch.compile translate the image networks, each when it is first called with tensors of a new shape.

    Raises:
        UserError: what the compiler needs is not installed.
    """
    lacking = _lacking(device)
    if lacking:
        raise UserError(f"compile=true: needs {lacking}; install it, or leave compile=false")
    for network in image_networks(model):
        network.compile(backend=backend, dynamic=False)


def _lacking(device: str) -> str:
    """What torch.compile would miss on this machine; empty if nothing."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name.split()[0]) is None:
        return f"a C++ compiler, and there is no {name}"
    if torch.device(device).type == "cuda" and importlib.util.find_spec("triton") is None:
        return "triton"
    return ""
