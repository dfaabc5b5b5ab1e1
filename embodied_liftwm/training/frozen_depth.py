"""Give an encoder another model's depth and keep it from learning, to compare what models do with the same depth.

All of the other's encoder is taken but the rows of its head that make latents: what a memory keeps beside depth is its own
to learn. What was taken is put back after every step, too: an optimiser's decay asks for no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.world_model.encoder import Encoder

OF_DEPTH = (True, True, True, False, True, False)
"""Of `Encoder.parts`: logits of depth, trust, opacity, latents, normal, the latents' scale."""


def freeze_depth(mine: Encoder, theirs: Encoder, fresh: bool) -> Callable[[], None]:
    """Take over all that makes depth, opacity and normals in another encoder, and keep it from learning.

    Args:
        mine: is changed in place; any latent dimension.
        theirs: of the same stride, width, planes and image size.
        fresh: let latents begin at zero. A new head of trained features, which are many times as large as untrained ones, would
            drown the colours that some latents begin as.

    Returns:
        What puts back the values that were taken; to be called after every step.

    Raises:
        UserError: a tensor does not fit; it is named.
    """
    own, given = dict(mine.named_parameters()), dict(theirs.named_parameters())
    head, heads = own.pop("head.weight"), (given.pop("head.weight"), given.pop("head.bias"))
    own.pop("head.bias")
    for name, tensor in given.items():
        if name not in own or own[name].shape != tensor.shape:
            got = list(own[name].shape) if name in own else "none"
            raise UserError(f"encoder: tensor {name!r} has shape {got}, that of the model to take it from {list(tensor.shape)}")
    rows, their_rows = _of_depth(mine), _of_depth(theirs)
    if int(rows.sum()) != int(their_rows.sum()) or head.shape[1:] != heads[0].shape[1:]:
        raise UserError("encoder: its head is of another width or number of planes than that of the model to take it from")
    taken: list[tuple[Tensor, Tensor | None, Tensor]] = [(own[name], None, t.detach().clone()) for name, t in given.items()]
    for parameter, values in zip((mine.head.weight, mine.head.bias), heads, strict=True):
        assert parameter is not None
        taken.append((parameter, rows, values.detach()[their_rows].clone()))
        parameter.register_hook(lambda gradient: gradient * _along_rows(~rows, gradient))
    for parameter, of, _ in taken:
        parameter.requires_grad_(of is not None)

    @torch.no_grad()
    def put_back() -> None:
        for parameter, of, values in taken:
            if of is None:
                parameter.copy_(values)
            else:
                parameter[of] = values

    put_back()
    if fresh:
        with torch.no_grad():
            for parameter in (mine.head.weight, mine.head.bias):
                assert parameter is not None
                parameter[~rows] = 0.0
    return put_back


def _of_depth(encoder: Encoder) -> Tensor:
    """Rows of the head that are taken. [sum of parts] bool"""
    return torch.cat([torch.full((n,), kept) for n, kept in zip(encoder.parts, OF_DEPTH, strict=True)])


def _along_rows(mask: Tensor, like: Tensor) -> Tensor:
    return mask.to(like).view(-1, *[1] * (like.dim() - 1))
