"""The fast painters against the torch reference: one contract, whatever the scene."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from embodied_liftwm.gaussians import rasterize
from tests.gaussians.scenes import NAMES, one_gaussian, random_scene

Scene = dict[str, Tensor]


def render_and_differentiate(scene: Scene, size: int, backend: str, seed: int = 7) -> tuple[list[Tensor], list[Tensor]]:
    """Images, and gradients of a random linear functional of all of them."""
    images = rasterize(**scene, width=size, height=size, backend=backend)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image) for image in images]
    loss = sum((image * weight).sum() for image, weight in zip(images, weights))
    return list(images), list(torch.autograd.grad(loss, [scene[name] for name in NAMES]))


def assert_agree(scene: Scene, size: int, backend: str = "numba", relative: float = 1e-4) -> None:
    images, gradients = render_and_differentiate(scene, size, backend)
    expected_images, expected_gradients = render_and_differentiate(scene, size, "torch")
    for image, expected in zip(images, expected_images):
        torch.testing.assert_close(image, expected, atol=1e-5, rtol=1e-5)
    for name, gradient, expected in zip(NAMES, gradients, expected_gradients):
        assert gradient.isfinite().all(), name
        scale = expected.abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(gradient, expected, atol=relative * scale + 1e-6, rtol=0.0, msg=name)


def with_(scene: Scene, **changes: Tensor) -> Scene:
    return {**scene, **{name: value.detach().requires_grad_() for name, value in changes.items()}}


@pytest.mark.parametrize("count", [0, 1, 40, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_scene(count: int, dtype: torch.dtype) -> None:
    assert_agree(random_scene(count, dtype=dtype, seed=count), 32)


@pytest.mark.parametrize("channels", [1, 3, 8, 17])
def test_any_number_of_channels(channels: int) -> None:
    assert_agree(random_scene(50, channels=channels), 32)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 19), (50, 3)])
def test_any_image_size(width: int, height: int) -> None:
    scene = random_scene(60)
    for ours, expected in zip(
        rasterize(**scene, width=width, height=height, backend="numba"),
        rasterize(**scene, width=width, height=height, backend="torch"),
    ):
        assert ours.shape[2:4] == (height, width)
        torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def test_behind_the_camera() -> None:
    scene = random_scene(40)
    behind = scene["means"] * torch.tensor([1.0, 1.0, -1.0])
    mixed = torch.where(torch.arange(40)[:, None] % 2 == 0, behind, scene["means"])
    assert_agree(with_(scene, means=mixed), 32)
    images, gradients = render_and_differentiate(with_(scene, means=behind), 32, "numba")
    assert all((image == 0).all() for image in images)
    assert all((gradient == 0).all() for gradient in gradients)


def test_at_the_camera_and_on_the_near_plane() -> None:
    scene = random_scene(3)
    means = torch.tensor([[0.0, 0.0, 0.0], [0.001, 0.0, 0.01], [0.5, 0.5, 0.02]]).expand(2, 3, 3)
    assert_agree(with_(scene, means=means, viewmats=torch.eye(4).expand(2, 2, 4, 4)), 32)


@pytest.mark.parametrize("scale", [10.0, 1e3, 1e6])
def test_huge(scale: float) -> None:
    scene = random_scene(20)
    assert_agree(with_(scene, scales=scene["scales"] * scale), 32)


def test_absurdly_huge_is_finite() -> None:
    images, gradients = render_and_differentiate(one_gaussian(scale=(1e20, 1e20, 1e20)), 33, "numba")
    assert all(tensor.isfinite().all() for tensor in [*images, *gradients])


@pytest.mark.parametrize("thickness", [1e-2, 1e-4, 0.0])
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-4), (torch.float32, 1e-3)])
def test_needles(thickness: float, dtype: torch.dtype, relative: float) -> None:
    """In float32 the gradient of a needle's thin axes is a small difference of large terms, in either painter."""
    scene = random_scene(60, seed=3, dtype=dtype)
    needles = scene["scales"] * torch.tensor([6.0, thickness, thickness], dtype=dtype)
    assert_agree(with_(scene, scales=needles), 32, relative=relative)


def test_opaque_layers_end_early() -> None:
    scene = random_scene(400, seed=5)
    assert_agree(with_(scene, opacities=torch.ones(2, 400), scales=scene["scales"] * 4), 32)


def test_too_transparent_to_matter() -> None:
    scene = with_(random_scene(30), opacities=torch.full((2, 30), 1 / 256))
    images, _ = render_and_differentiate(scene, 32, "numba")
    assert all((image == 0).all() for image in images)
    assert_agree(scene, 32)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_empty_slots_change_nothing(backend: str) -> None:
    """Slots of opacity 0 may hold anything finite, even a zero quaternion; the rest renders as if they were not there."""
    scene = random_scene(40)
    slots = {"means": torch.zeros(2, 25, 3), "quats": torch.zeros(2, 25, 4), "scales": torch.zeros(2, 25, 3),
             "opacities": torch.zeros(2, 25), "features": torch.full((2, 25, 5), 1e3)}  # fmt: skip
    padded = with_(scene, **{name: torch.cat([value, scene[name]], dim=1) for name, value in slots.items()})
    images, gradients = render_and_differentiate(padded, 32, backend)
    expected_images, expected_gradients = render_and_differentiate(scene, 32, backend)
    for image, expected in zip(images, expected_images):
        torch.testing.assert_close(image, expected, atol=0, rtol=0)
    for name, gradient, expected in zip(NAMES, gradients, expected_gradients):
        if name in slots:
            assert (gradient[:, :25] == 0).all(), name
            gradient = gradient[:, 25:]
        torch.testing.assert_close(gradient, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)


def test_float32_agrees_with_float64() -> None:
    """Rounding moves no more than what sits on a cut-off."""
    coarse = random_scene(300)
    fine = {name: value.detach().double() for name, value in coarse.items()}
    ours = rasterize(**coarse, width=32, height=32, backend="numba")
    for image, expected in zip(ours, rasterize(**fine, width=32, height=32, backend="torch")):
        assert (image - expected).abs().median() < 1e-6
        assert (image - expected).abs().max() < 5 / 255


def test_equal_depths_keep_the_order_of_index() -> None:
    scene = random_scene(30)
    flat = with_(scene, means=scene["means"] * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 3.0]))
    assert_agree(with_(flat, viewmats=torch.eye(4).expand(2, 2, 4, 4)), 32)


def test_result_does_not_depend_on_threads() -> None:
    """Same bits with one thread and with several, and from several Python threads at once."""
    scene = random_scene(200, batch=3, views=3)
    before = torch.get_num_threads()
    results = {}
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results[threads] = render_and_differentiate(scene, 32, "numba")
    finally:
        torch.set_num_threads(before)

    concurrent: list[tuple[list[Tensor], list[Tensor]]] = []
    workers = [
        threading.Thread(target=lambda: concurrent.append(render_and_differentiate(scene, 32, "numba"))) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for images, _ in [results[3], *concurrent]:
        for image, expected in zip(images, results[1][0]):
            assert torch.equal(image, expected)
    assert len(concurrent) == 3
    for gradient, expected in zip(results[3][1][3:5], results[1][1][3:5]):
        assert torch.equal(gradient, expected)


def test_one_view_is_painted_in_bands() -> None:
    assert_agree(random_scene(200, batch=1, views=1, size=64), 64)


@pytest.mark.gpu
@pytest.mark.parametrize("count", [1, 40, 600])
def test_gsplat(count: int) -> None:
    pytest.importorskip("gsplat")
    scene = {name: value.detach().cuda().requires_grad_(name != "Ks") for name, value in random_scene(count).items()}
    names = [name for name in NAMES if name != "Ks"]

    def render(backend: str) -> tuple[list[Tensor], list[Tensor]]:
        images = rasterize(**scene, width=32, height=32, backend=backend)
        return list(images), list(torch.autograd.grad(sum(image.square().sum() for image in images), [scene[n] for n in names]))

    (images, gradients), (expected_images, expected_gradients) = render("gsplat"), render("torch")
    for image, expected in zip(images, expected_images):
        torch.testing.assert_close(image, expected, atol=1e-3, rtol=1e-3)
    for gradient, expected in zip(gradients, expected_gradients):
        torch.testing.assert_close(gradient, expected, atol=5e-3 * expected.abs().max().item(), rtol=0)
