"""When compiled kernels may take tensors, and how they get them.

Each kernel has a counterpart in torch, its reference, which runs wherever a gradient or an accelerator is wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from embodied_liftwm.tensor_tree import TensorTree

R = TypeVar("R", bound=NamedTuple)
_DTYPES = (torch.float32, torch.int64, torch.bool)


def compilable(*values: Tensor | TensorTree) -> bool:
    """Whether kernels can take these: float32 or integers in the memory of the CPU, none of which needs a derivative."""
    if forward_ad._current_level >= 0:  # tangents, which no tensor tells of as cheaply
        return False
    recording = torch.is_grad_enabled()
    return all(t.is_cpu and t.dtype in _DTYPES and not (recording and t.requires_grad) for t in _tensors(values))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Those among values, and in trees among them; without `named_tensors`, whose names take longer than some kernels."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, TensorTree):
            yield from _tensors(vars(value).values())


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """The tensors as C-contiguous arrays; those that are so already share their memory."""
    return tuple((t.detach() if t.requires_grad else t).contiguous().numpy() for t in tensors)


def as_scalars(rules: R, dtype: np.dtype) -> R:
    """Floats as scalars of `dtype`, integers as they are: numbers that kernels are given."""
    return type(rules)(*(dtype.type(value) if isinstance(value, float) else value for value in rules))
