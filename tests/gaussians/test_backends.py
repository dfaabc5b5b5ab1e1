"""The fast painters against the torch reference: one contract, whatever the scene."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor

from embodied_liftwm.memory.gaussians import rasterize
from embodied_liftwm.threads import for_each
from tests.gaussians.scenes import NAMES, one_gaussian, random_scene

Scene = dict[str, Tensor]

FAST = ["numba", pytest.param("gsplat", marks=pytest.mark.gpu)]
"""Every test of this file that takes a `backend` runs on both; what gsplat promises less of is said beside it."""


def place(scene: Scene, backend: str) -> Scene:
    """The scene where the backend runs, each tensor a leaf that requires a gradient if the backend gives it one."""
    if backend != "gsplat":
        return scene
    pytest.importorskip("gsplat")
    return {name: value.detach().cuda().requires_grad_(name != "Ks") for name, value in scene.items()}


def render_and_differentiate(scene: Scene, size: int, backend: str, seed: int = 7) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Images, and gradients of a random linear functional of all of them, by argument."""
    scene = place(scene, backend)
    images = rasterize(**scene, width=size, height=size, backend=backend)
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image) for image in images]
    leaves = {name: scene[name] for name in NAMES if scene[name].requires_grad}
    gradients = torch.autograd.grad(images, list(leaves.values()), weights)
    return [image.cpu() for image in images], {name: gradient.cpu() for name, gradient in zip(leaves, gradients)}


def assert_agree(scene: Scene, size: int, backend: str = "numba", relative: float = 1e-4) -> None:
    """Images and gradients as the reference has them.

    gsplat inverts covariances by another formula and rounds more, which moves a value in a thousand across a cut-off.
    """
    tolerance, relative, flipped = (1e-5, relative, 0.0) if backend == "numba" else (1e-3, 50 * relative, 1e-3)
    images, gradients = render_and_differentiate(scene, size, backend)
    expected_images, expected_gradients = render_and_differentiate(scene, size, "torch")
    for image, expected in zip(images, expected_images):
        assert image.isfinite().all() and image.shape == expected.shape
        off = (image - expected).abs() > tolerance * (1 + expected.abs())
        assert off.sum() <= flipped * off.numel(), f"{off.sum()} of {off.numel()} values are off"
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
        assert gradient.isfinite().all(), name
        scale = expected.abs().max().item() if expected.numel() else 0.0
        torch.testing.assert_close(gradient, expected, atol=relative * scale + 1e-6, rtol=0.0, msg=name)


def with_(scene: Scene, **changes: Tensor) -> Scene:
    return {**scene, **{name: value.detach().requires_grad_() for name, value in changes.items()}}


@pytest.mark.parametrize("count", [0, 1, 40, 600])
@pytest.mark.parametrize("backend", FAST)
def test_random_scene(backend: str, count: int) -> None:
    assert_agree(random_scene(count, seed=count), 32, backend)


@pytest.mark.parametrize("count", [0, 1, 40, 600])
def test_random_scene_in_float64(count: int) -> None:
    assert_agree(random_scene(count, dtype=torch.float64, seed=count), 32, relative=1e-9)


@pytest.mark.parametrize("scene", [one_gaussian(), one_gaussian(mean=(0.7, -0.5, 1.5), scale=(0.3, 0.02, 0.1), opacity=1.0)])
@pytest.mark.parametrize("backend", FAST)
def test_one_primitive(backend: str, scene: Scene) -> None:
    assert_agree(scene, 33, backend)


@pytest.mark.parametrize("channels", [1, 3, 8, 17, 40])
@pytest.mark.parametrize("backend", FAST)
def test_any_number_of_channels(backend: str, channels: int) -> None:
    assert_agree(random_scene(50, channels=channels), 32, backend)


@pytest.mark.parametrize("backend", ["torch", *FAST])
def test_no_channels_leave_alphas_and_depths(backend: str) -> None:
    """Alphas, depths and what they give gradients to are those of the same scene with channels, whose own gradients are 0."""
    scene = random_scene(50, channels=3)
    (_, alphas, depths), gradients = render_and_differentiate(with_(scene, features=scene["features"][..., :0]), 32, backend)
    expected = rasterize(**scene, width=32, height=32, backend="torch")
    tolerance = 1e-3 if backend == "gsplat" else 1e-5
    torch.testing.assert_close(alphas, expected.alphas, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(depths, expected.depths, atol=tolerance, rtol=tolerance)
    assert gradients["features"].shape == (2, 50, 0)
    if backend != "torch":
        assert_agree(with_(scene, features=scene["features"][..., :0]), 32, backend)


@pytest.mark.parametrize(("batch", "views"), [(1, 1), (1, 5), (4, 1), (3, 2)])
@pytest.mark.parametrize("backend", ["torch", *FAST])
def test_scenes_and_views_in_a_batch_do_not_meet(backend: str, batch: int, views: int) -> None:
    """Every view of every scene is what it is when rendered alone."""
    scene = place(random_scene(60, batch=batch, views=views), backend)
    together = rasterize(**scene, width=32, height=32, backend=backend)
    assert together.features.shape == (batch, views, 32, 32, 5)
    assert together.alphas.shape == together.depths.shape == (batch, views, 32, 32, 1)
    for b in range(batch):
        for v in range(views):
            alone = {
                name: value[b : b + 1] if name in NAMES[:5] else value[b : b + 1, v : v + 1] for name, value in scene.items()
            }
            for image, expected in zip(together, rasterize(**alone, width=32, height=32, backend=backend)):
                torch.testing.assert_close(image[b, v], expected[0, 0], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 19), (50, 3)])
@pytest.mark.parametrize("backend", FAST)
def test_any_image_size(backend: str, width: int, height: int) -> None:
    scene, tolerance = random_scene(60), 1e-5 if backend == "numba" else 1e-3
    for ours, expected in zip(
        rasterize(**place(scene, backend), width=width, height=height, backend=backend),
        rasterize(**scene, width=width, height=height, backend="torch"),
    ):
        assert ours.shape[2:4] == (height, width)
        torch.testing.assert_close(ours.cpu(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backend", FAST)
def test_behind_the_camera(backend: str) -> None:
    scene = random_scene(40)
    behind = scene["means"] * torch.tensor([1.0, 1.0, -1.0])
    mixed = torch.where(torch.arange(40)[:, None] % 2 == 0, behind, scene["means"])
    assert_agree(with_(scene, means=mixed), 32, backend)
    images, gradients = render_and_differentiate(with_(scene, means=behind), 32, backend)
    assert all((image == 0).all() for image in images)
    assert all((gradient == 0).all() for gradient in gradients.values())


def test_at_the_camera_and_on_the_near_plane() -> None:
    """A centimetre away, gsplat's determinants are noise in float32."""
    scene = random_scene(3)
    means = torch.tensor([[0.0, 0.0, 0.0], [0.001, 0.0, 0.01], [0.5, 0.5, 0.02]]).expand(2, 3, 3)
    assert_agree(with_(scene, means=means, viewmats=torch.eye(4).expand(2, 2, 4, 4)), 32)


@pytest.mark.parametrize("backend", FAST)
def test_larger_than_the_image(backend: str) -> None:
    scene = random_scene(20)
    assert_agree(with_(scene, scales=scene["scales"] * 10), 32, backend)


@pytest.mark.parametrize("scale", [1e3, 1e6])
def test_huge(scale: float) -> None:
    """Beyond what gsplat's difference of products can tell from a line."""
    scene = random_scene(20)
    assert_agree(with_(scene, scales=scene["scales"] * scale), 32)


def test_absurdly_huge_is_finite() -> None:
    images, gradients = render_and_differentiate(one_gaussian(scale=(1e20, 1e20, 1e20)), 33, "numba")
    assert all(tensor.isfinite().all() for tensor in [*images, *gradients.values()])


def needles(thickness: float, dtype: torch.dtype) -> Scene:
    scene = random_scene(60, seed=3, dtype=dtype)
    return with_(scene, scales=scene["scales"] * torch.tensor([6.0, thickness, thickness], dtype=dtype))


@pytest.mark.parametrize("thickness", [1e-2, 1e-4, 0.0])
def test_needles_in_float64(thickness: float) -> None:
    assert_agree(needles(thickness, torch.float64), 32)


@pytest.mark.parametrize("thickness", [1e-2, 1e-4, 0.0])
@pytest.mark.parametrize("backend", FAST)
def test_needles(backend: str, thickness: float) -> None:
    """In float32 the gradient of a needle's thin axes is a small difference of large terms, in any painter."""
    assert_agree(needles(thickness, torch.float32), 32, backend, relative=1e-3)


@pytest.mark.parametrize("backend", FAST)
def test_opaque_layers_end_early(backend: str) -> None:
    scene = random_scene(400, seed=5)
    assert_agree(with_(scene, opacities=torch.ones(2, 400), scales=scene["scales"] * 4), 32, backend)


@pytest.mark.parametrize("backend", FAST)
def test_too_transparent_to_matter(backend: str) -> None:
    scene = with_(random_scene(30), opacities=torch.full((2, 30), 1 / 256))
    images, _ = render_and_differentiate(scene, 32, backend)
    assert all((image == 0).all() for image in images)
    assert_agree(scene, 32, backend)


@pytest.mark.parametrize("backend", ["torch", *FAST])
def test_empty_slots_change_nothing(backend: str) -> None:
    """Slots of opacity 0 may hold anything finite, even a zero quaternion; the rest renders as if they were not there."""
    scene = random_scene(40)
    slots = {"means": torch.zeros(2, 25, 3), "quats": torch.zeros(2, 25, 4), "scales": torch.zeros(2, 25, 3),
             "opacities": torch.zeros(2, 25), "features": torch.full((2, 25, 5), 1e3)}  # fmt: skip
    padded = with_(scene, **{name: torch.cat([value, scene[name]], dim=1) for name, value in slots.items()})
    images, gradients = render_and_differentiate(padded, 32, backend)
    expected_images, expected_gradients = render_and_differentiate(scene, 32, backend)
    for image, expected in zip(images, expected_images):
        torch.testing.assert_close(image, expected, atol=1e-6, rtol=1e-5)  # sums of other lengths round otherwise
    for name, gradient in gradients.items():
        expected = expected_gradients[name]
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


@pytest.mark.parametrize("backend", FAST)
def test_equal_depths_keep_the_order_of_index(backend: str) -> None:
    scene = random_scene(30)
    flat = with_(scene, means=scene["means"] * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 3.0]))
    assert_agree(with_(flat, viewmats=torch.eye(4).expand(2, 2, 4, 4)), 32, backend)


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

    concurrent: list[tuple[list[Tensor], dict[str, Tensor]]] = []
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
    for name in ("opacities", "features"):
        assert torch.equal(results[3][1][name], results[1][1][name])


def test_who_paints_never_waits_for_a_helper_that_has_not_begun() -> None:
    """One caller holds the only helper; another does all its tasks itself and returns."""
    before, release, seen = torch.get_num_threads(), threading.Event(), []
    torch.set_num_threads(2)
    try:
        holder = threading.Thread(target=for_each, args=(lambda _: release.wait(30), [(0,), (1,)]))
        holder.start()
        other = threading.Thread(target=for_each, args=(seen.append, [(k,) for k in range(4)]))
        other.start()
        other.join(timeout=10)
        assert not other.is_alive() and holder.is_alive()
    finally:
        release.set()
        torch.set_num_threads(before)
        holder.join()
    assert sorted(seen) == [0, 1, 2, 3]


@pytest.mark.parametrize("backend", FAST)
def test_one_view_is_painted_in_bands(backend: str) -> None:
    assert_agree(random_scene(200, batch=1, views=1, size=64), 64, backend)
