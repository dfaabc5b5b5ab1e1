"""A frozen dataclass of tensors that behaves as a pytree with a batch axis.

Every model state derives from `TensorTree`, so that planners can expand it, policies can index it and anyone can save it,
without knowing which memory is inside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import whole_file
from embodied_liftwm.weights import read_tensors, save_tensors


@dataclasses.dataclass(frozen=True)
class TensorTree:
    """Fields are tensors with a leading batch axis, other `TensorTree`s, or None.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Point(TensorTree):
        ...     xyz: Tensor
        >>> Point(torch.zeros(1, 3)).expand(4).xyz.shape
        torch.Size([4, 3])
    """

    def map(self, fn: Callable[[Tensor], Tensor]) -> Self:
        """Apply `fn` to every tensor and return the tree of results."""

        def apply(value):
            if isinstance(value, Tensor):
                return fn(value)
            return value.map(fn) if isinstance(value, TensorTree) else value

        return dataclasses.replace(self, **{f.name: apply(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def map_with(self, other: Self, fn: Callable[[Tensor, Tensor], Tensor]) -> Self:
        """Apply `fn` to every tensor and the one of the same name in `other`, a tree of the same structure."""
        theirs, names = other.named_tensors(), iter(self.named_tensors())
        return self.map(lambda mine: fn(mine, theirs[next(names)]))

    def named_tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """Every tensor by its dotted name."""
        found: dict[str, Tensor] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                found[prefix + field.name] = value
            elif isinstance(value, TensorTree):
                found |= value.named_tensors(f"{prefix}{field.name}.")
        return found

    def detach(self) -> Self:
        return self.map(Tensor.detach)

    def to(self, device: torch.device | str) -> Self:
        return self.map(lambda t: t.to(device))

    def index(self, which: Tensor | slice | list[int]) -> Self:
        """Select along the batch axis."""
        return self.map(lambda t: t[which])

    def expand(self, batch_size: int) -> Self:
        """Repeat a batch of one without copying memory."""
        return self.map(lambda t: t.expand(batch_size, *t.shape[1:]))

    def where(self, mask: Tensor, other: Self) -> Self:
        """Take rows of `self` where `mask` [B] is true, of `other` elsewhere. Both trees have the same structure.

        A tree within it, which may be one that grows, chooses by its own rule.
        """

        def choose(mine, theirs):
            if isinstance(mine, Tensor):
                return torch.where(mask.view(-1, *[1] * (mine.dim() - 1)), mine, theirs)
            return mine.where(mask, theirs) if isinstance(mine, TensorTree) else mine

        chosen = {f.name: choose(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)}
        return dataclasses.replace(self, **chosen)

    def nbytes(self) -> int:
        """Bytes of all tensors: what this state costs to keep."""
        return sum(t.numel() * t.element_size() for t in self.named_tensors().values())

    def save(self, path: str | Path) -> None:
        """Write the tensors as safetensors, whole or not at all. Views of one tensor are written as often as they are there."""
        with whole_file(path) as partial:
            save_tensors(partial, self.named_tensors())

    def load(self, path: str | Path) -> Self:
        """A tree of this structure with the tensors of `path`.

        Raises:
            UserError: no such file, a damaged one, or one of another structure.
        """
        stored = read_tensors(path)
        mine = self.named_tensors()
        if stored.keys() != mine.keys():
            found, expected = (", ".join(sorted(names)) for names in (stored, mine))
            raise UserError(f"{path} is of another class: it holds {found}, expected {expected}")
        names = iter(mine)
        return self.map(lambda _: stored[next(names)])


def concatenate(trees: list[TensorTree]) -> TensorTree:
    """Join trees of one structure along the batch axis."""
    tensors = [tree.named_tensors() for tree in trees]
    names = iter(tensors[0])

    def join(_: Tensor) -> Tensor:
        name = next(names)
        return torch.cat([t[name] for t in tensors])

    return trees[0].map(join)
