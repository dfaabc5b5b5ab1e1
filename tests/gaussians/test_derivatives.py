"""Second derivatives through `rasterize` are those of the reference, with respect to every argument, or are refused."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from embodied_liftwm.errors import UserError
from embodied_liftwm.geometry.cameras import inverse_intrinsics
from embodied_liftwm.memory.gaussians import rasterize
from embodied_liftwm.memory.gaussians.rasterizer import gsplat_backend
from tests.gaussians.scenes import NAMES, intrinsics, random_scene

SIZE = 16


def scene(count: int = 10, channels: int = 3) -> dict[str, Tensor]:
    return random_scene(count, size=SIZE, channels=channels, dtype=torch.float64, seed=3)


def loss_of(tensors: dict[str, Tensor], backend: str) -> Tensor:
    view = rasterize(**tensors, width=SIZE, height=SIZE, backend=backend)
    return view.features.square().sum() + (view.alphas * view.depths).sin().sum()


def products(backend: str, first: str, **kind: int) -> list[Tensor]:
    """The gradient to one argument alone, and that of its product with a direction, to each argument alone."""
    tensors = scene(**kind)
    (gradient,) = torch.autograd.grad(loss_of(tensors, backend), tensors[first], create_graph=True)
    generator = torch.Generator().manual_seed(1)
    projected = (gradient * torch.randn(gradient.shape, generator=generator, dtype=torch.float64)).sum()
    again = [torch.autograd.grad(projected, tensors[name], retain_graph=True)[0] for name in NAMES]
    return [gradient, *again]


@pytest.mark.parametrize("first", NAMES)
def test_hessian_vector_products_are_those_of_the_reference(first: str) -> None:
    for found, expected in zip(products("numba", first), products("torch", first), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [{"count": 0}, {"count": 4, "channels": 0}, {"count": 4, "channels": 9}])
def test_of_no_primitives_or_other_channels(kind: dict[str, int]) -> None:
    for found, expected in zip(products("numba", "opacities", **kind), products("torch", "opacities", **kind), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_a_gradient_penalty_trains_the_other_arguments() -> None:
    """`backward` of the norm of a gradient to means, where the means themselves are no leaf that is asked for."""
    found = {}
    for backend in ("numba", "torch"):
        tensors = scene()
        (gradient,) = torch.autograd.grad(loss_of(tensors, backend), tensors["means"], create_graph=True)
        gradient.square().sum().backward(inputs=[tensors["features"], tensors["Ks"]])
        found[backend] = [tensors["features"].grad, tensors["Ks"].grad]
    torch.testing.assert_close(found["numba"], found["torch"], rtol=1e-9, atol=1e-9)


def test_directional_derivatives_by_two_backward_passes() -> None:
    """`jvp` differentiates a gradient with respect to what it was multiplied by."""
    tensors = {name: value.detach() for name, value in scene().items()}
    direction = torch.ones_like(tensors["scales"])
    found = [
        torch.autograd.functional.jvp(lambda x: loss_of(tensors | {"scales": x}, name), tensors["scales"], direction)[1]  # noqa: B023
        for name in ("numba", "torch")
    ]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_tangents_are_carried_or_refused() -> None:
    """Forward mode: the painter refuses; the small compiled kernels leave it to torch."""
    tensors = {name: value.detach() for name, value in scene().items()}
    with forward_ad.dual_level():
        means = forward_ad.make_dual(tensors["means"], torch.ones_like(tensors["means"]))
        with pytest.raises(NotImplementedError, match="forward mode"):
            loss_of(tensors | {"means": means}, "numba")
        focal = forward_ad.make_dual(intrinsics(SIZE, torch.float32), torch.diag(torch.tensor([1.0, 0.0, 0.0])))
        tangent = forward_ad.unpack_dual(inverse_intrinsics(focal)).tangent
    assert tangent[0, 0].item() == pytest.approx(-1.0 / (0.6 * SIZE) ** 2)


def test_gsplat_refuses_to_be_differentiated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of its kernels, a function of the same call whose second derivatives would be wrong without a word."""

    def rasterization(means, quats, scales, opacities, features, viewmats, Ks, width, height, **_):
        image = features.sum(1)[:, None, None, None].expand(-1, 1, height, width, -1) + means.detach().square().sum()
        return torch.cat([image, image[..., :1]], -1), image[..., :1], {}

    monkeypatch.setitem(sys.modules, "gsplat", SimpleNamespace(rasterization=rasterization))
    tensors = scene()
    for name in ("features", "means"):
        image = gsplat_backend.render(**tensors, width=4, height=4, near=0.01, eps2d=0.3)[0]
        (once,) = torch.autograd.grad(image.sum(), tensors[name], retain_graph=True)
        assert once.isfinite().all()
        with pytest.raises(UserError, match="no second derivatives"):
            torch.autograd.grad(image.sum(), tensors[name], create_graph=True)
