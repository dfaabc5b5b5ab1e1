"""When compiled kernels may take tensors, and how they get them.

Each kernel has a counterpart in torch, its reference, which runs wherever a gradient or an accelerator is wanted.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree

_DTYPES = (torch.float32, torch.int64, torch.bool)


def compilable(*values: Tensor | TensorTree) -> bool:
    """Whether kernels can take these: float32 or integers in the memory of the CPU, none of which needs a gradient."""
    tensors = [t for v in values for t in (v.named_tensors().values() if isinstance(v, TensorTree) else (v,))]
    recording = torch.is_grad_enabled()
    return all(t.device.type == "cpu" and t.dtype in _DTYPES and not (recording and t.requires_grad) for t in tensors)


def arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """The tensors as C-contiguous arrays; those that are so already share their memory."""
    return tuple(tensor.detach().contiguous().numpy() for tensor in tensors)
