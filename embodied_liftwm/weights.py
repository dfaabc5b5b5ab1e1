"""Tensors by name in safetensors files: read whole, held against the checksum beside them, and fitted to a network.

Nothing is ever unpickled.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor, nn

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import check_sum


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors of any dtype and memory layout, also such as share memory, as a safetensors file.

    Raises:
        UserError: a tensor of a dtype or layout that the format does not have.
    """
    from safetensors.torch import save_file

    try:
        # A copy of each, since the format has no views.
        save_file({name: _plain(tensor) for name, tensor in tensors.items()}, path)
    except (KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"a tensor cannot be written as safetensors: {_line(error)}") from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """What a safetensors file holds, in the CPU's memory.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # whatever a damaged header leads to
        raise UserError(f"{path} is not a readable safetensors file: {_line(error)}") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """`read_tensors` of what was trained: unchanged since it was written, where that was recorded, and finite.

    Raises:
        UserError: as `read_tensors`; or the file was changed, or holds NaN or infinite numbers.
    """
    stored = read_tensors(path)
    check_sum(path)
    check_finite(path, stored)
    return stored


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError for NaN or infinite numbers in what a file held."""
    for name, tensor in tensors.items():
        bad = int((~tensor.float().isfinite()).sum()) if tensor.is_floating_point() else 0
        if bad:
            raise UserError(f"{path}: {bad} of the {tensor.numel()} numbers of tensor {name!r} are NaN or infinite: restore it")


def load_weights(network: nn.Module, path: Path) -> None:
    """Load weights of any floating type.

    Raises:
        UserError: as `read_weights`; or the first tensor that does not fit, named.
    """
    stored, wanted = named_as_now(network, read_weights(path)), network.state_dict()
    for name in sorted(wanted.keys() ^ stored.keys()):
        where, others = ("lacks", stored.keys() - wanted) if name in wanted else ("has an extra", wanted.keys() - stored)
        raise UserError(f"{path} {where} tensor {name!r}{_nearest(name, others)}: these are weights of another architecture")
    for name, tensor in wanted.items():
        got, expected = (f"{str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for t in (stored[name], tensor))
        if tensor.shape != stored[name].shape or tensor.is_floating_point() != stored[name].is_floating_point():
            raise UserError(f"{path}: tensor {name!r} is {got}, expected {expected}: another architecture")
    network.load_state_dict(stored)


def named_as_now(network: nn.Module, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by the names that they have now, for a network that knows what they were called (its `renamed`)."""
    renamed = getattr(network, "renamed", None)
    return stored if renamed is None else renamed(stored)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().clone()


def _nearest(name: str, others: Collection[str]) -> str:
    """` (the nearest is 'a.b')`, or nothing."""
    close = difflib.get_close_matches(name, others, 1)
    return f" (the nearest is {close[0]!r})" if close else ""


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
