"""When compiled kernels write and read patch maps, and what their callers share.

The torch code of `patch_frame`, `patch_integrate` and `patch_read` is the reference, and runs wherever a gradient or an
accelerator is wanted; its no-gradient parts are compiled in training too.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree

R = TypeVar("R", bound=NamedTuple)


def compilable(*values: Tensor | TensorTree) -> bool:
    """Whether kernels can take these: float32 or integers in the memory of the CPU, none of which needs a gradient."""
    tensors = [t for v in values for t in (v.named_tensors().values() if isinstance(v, TensorTree) else (v,))]
    recording = torch.is_grad_enabled()
    return all(t.device.type == "cpu" and t.dtype in _DTYPES and not (recording and t.requires_grad) for t in tensors)


_DTYPES = (torch.float32, torch.int64, torch.bool)


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """The tensors as C-contiguous arrays; those that are so already share their memory."""
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)


def ranges(count: int) -> list[tuple[int, int]]:
    """[0, count) in two parts a thread of torch, for one thread in one: first and end of each. Results do not depend on it."""
    threads = torch.get_num_threads()
    parts = min(2 * threads if threads > 1 else 1, count)
    edges = [count * k // max(parts, 1) for k in range(parts + 1)]
    return list(pairwise(edges))


def as_scalars(rules: R, dtype: np.dtype) -> R:
    """Floats as scalars of `dtype`, integers as they are."""
    return type(rules)(*(dtype.type(value) if isinstance(value, float) else value for value in rules))
