"""What a rasterization means, on scenes whose answer is known, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch

from embodied_liftwm.errors import UserError
from embodied_liftwm.gaussians import choose_backend, rasterize
from embodied_liftwm.geometry import inverse_pose, look_at, project
from tests.gaussians.scenes import NAMES, intrinsics, one_gaussian, random_scene

BACKENDS = ["torch", "numba"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_isotropic_gaussian(backend: str) -> None:
    """Peak alpha is the opacity, depth is z, and alpha falls as the projected covariance says, down to 1/255."""
    size, opacity, depth, scale = 33, 0.8, 2.0, 0.1
    view = rasterize(**one_gaussian(opacity=opacity), width=size, height=size, backend=backend)
    alphas = view.alphas[0, 0, :, :, 0]
    centre = size // 2
    assert alphas[centre, centre].item() == pytest.approx(opacity, abs=1e-6)
    torch.testing.assert_close(view.depths, depth * view.alphas)
    torch.testing.assert_close(view.features, view.alphas * torch.tensor([1.0, 2.0, 3.0]))
    variance = (0.6 * size * scale / depth) ** 2 + 0.3
    distance = torch.arange(size) + 0.5 - size / 2
    expected = opacity * torch.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * variance))
    torch.testing.assert_close(alphas, torch.where(expected >= 1 / 255, expected, 0.0))


@pytest.mark.parametrize("backend", BACKENDS)
def test_mean_projects_as_the_cameras_say(backend: str) -> None:
    """The centre of mass of a small Gaussian is where `project` puts its mean: half-integer centres, OpenCV axes."""
    size = 48
    pose = look_at(torch.tensor([0.3, -0.2, 0.1]), torch.tensor([2.0, 0.5, 0.3]))
    scene = one_gaussian(mean=(2.0, 0.9, 0.1), scale=(0.03, 0.03, 0.03), size=size)
    scene["viewmats"] = inverse_pose(pose).reshape(1, 1, 4, 4)
    alphas = rasterize(**scene, width=size, height=size, backend=backend).alphas[0, 0, :, :, 0]
    pixels, depth = project(scene["means"], scene["Ks"][0], scene["viewmats"][0])
    grid = torch.arange(size) + 0.5
    total = alphas.sum()
    mass = torch.stack([(alphas.sum(0) * grid).sum() / total, (alphas.sum(1) * grid).sum() / total])
    torch.testing.assert_close(mass, pixels[0, 0], atol=0.02, rtol=0)
    assert depth.item() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_nearer_one_occludes(backend: str) -> None:
    scene = random_scene(2, batch=1, views=1, channels=2)
    scene |= {
        "means": torch.tensor([[[0.0, 0.0, 4.0], [0.0, 0.0, 2.0]]]),
        "opacities": torch.tensor([[1.0, 0.6]]),
        "scales": torch.full((1, 2, 3), 0.3),
        "features": torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]),
        "viewmats": torch.eye(4).reshape(1, 1, 4, 4),
        "Ks": intrinsics(33, torch.float32).reshape(1, 1, 3, 3),
    }
    view = rasterize(**scene, width=33, height=33, backend=backend)
    far, near = view.features[0, 0, 16, 16].tolist()
    assert near == pytest.approx(0.6, abs=1e-5)
    assert far == pytest.approx(0.4 * 0.999, abs=1e-5)
    assert view.depths[0, 0, 16, 16, 0].item() == pytest.approx(0.6 * 2 + 0.4 * 0.999 * 4, abs=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_finished_pixel_takes_no_more(backend: str) -> None:
    """Three layers of alpha 0.95 leave 1.25e-4; a fourth would go below 1e-4 and is not painted."""
    count = 6
    scene = one_gaussian(scale=(50.0, 50.0, 1e-3), opacity=0.95)
    layers = {name: scene[name].detach().expand(1, count, *scene[name].shape[2:]).clone() for name in NAMES[:5]}
    layers["means"][0, :, 2] = torch.arange(2.0, 2.0 + count)
    view = rasterize(**{**scene, **layers}, width=33, height=33, backend=backend)
    assert 1 - view.alphas[0, 0, 16, 16, 0].item() == pytest.approx(0.05**3, rel=1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_permuting_primitives_changes_nothing(backend: str) -> None:
    scene = random_scene(100)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(1))
    shuffled = {name: value[:, order] if name in NAMES[:5] else value for name, value in scene.items()}
    for image, expected in zip(
        rasterize(**shuffled, width=32, height=32, backend=backend), rasterize(**scene, width=32, height=32, backend=backend)
    ):
        assert torch.equal(image, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_moving_scene_and_cameras_together_changes_nothing(backend: str) -> None:
    from embodied_liftwm.geometry import matrix_to_quat, quat_to_matrix, se3_exp, transform

    scene = {name: value.detach() for name, value in random_scene(80, dtype=torch.float64).items()}
    motion = se3_exp(torch.tensor([[0.5, -1.0, 2.0, 0.4, 1.2, -0.7]], dtype=torch.float64)).expand(2, 4, 4)
    moved = scene | {
        "means": transform(motion, scene["means"]),
        "quats": matrix_to_quat(motion[:, None, :3, :3] @ quat_to_matrix(scene["quats"])),
        "viewmats": scene["viewmats"] @ inverse_pose(motion)[:, None],
    }
    for image, expected in zip(
        rasterize(**moved, width=32, height=32, backend=backend), rasterize(**scene, width=32, height=32, backend=backend)
    ):
        torch.testing.assert_close(image, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(backend: str, name: str) -> None:
    """Every entry of the Jacobian of the hand-written backward pass; random directions of the one that autograd derives."""
    scene = random_scene(6, size=8, batch=1, views=2, channels=2, dtype=torch.float64, seed=2)
    fixed = {key: value.detach() for key, value in scene.items() if key != name}

    def render(value: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(rasterize(**fixed, **{name: value}, width=8, height=8, backend=backend, validate=False))

    assert torch.autograd.gradcheck(render, (scene[name],), eps=1e-7, atol=1e-6, fast_mode=backend == "torch")


def test_expected_depth_has_a_gradient() -> None:
    scene = one_gaussian()
    view = rasterize(**scene, width=33, height=33)
    expected_depth = (view.depths / view.alphas.clamp(min=1e-6))[0, 0, 16, 16, 0]
    (gradient,) = torch.autograd.grad(expected_depth, scene["means"])
    assert gradient[0, 0, 2].item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"means": torch.full((2, 10, 3), math.nan)}, "finite means"),
        *(
            ({name: torch.full(shape, value)}, f"finite {name}")
            for name, shape in (("quats", (2, 10, 4)), ("viewmats", (2, 2, 4, 4)), ("features", (2, 10, 5)))
            for value in (math.nan, math.inf)
        ),
        ({"quats": torch.ones(2, 10, 4)}, "norm 2"),
        ({"quats": torch.zeros(2, 10, 4)}, "norm 0"),
        ({"scales": -torch.ones(2, 10, 3)}, "scales"),
        ({"opacities": torch.full((2, 10), 1.5)}, "opacities in [0, 1]"),
        ({"opacities": torch.ones(2, 10, 1)}, "expected opacities [B=2, N=10], got [2, 10, 1]"),
        ({"features": torch.ones(2, 9, 3)}, "expected features [B=2, N=10, C], got [2, 9, 3]"),
        ({"Ks": torch.ones(2, 3, 3, 3)}, "expected Ks [B=2, V=2, 3, 3], got [2, 3, 3, 3]"),
        ({"viewmats": torch.ones(2, 0, 4, 4), "Ks": torch.ones(2, 0, 3, 3)}, "at least one scene and one view"),
        ({"viewmats": torch.eye(4)}, "expected viewmats [B=2, V, 4, 4]"),
        ({"features": torch.ones(2, 10, 3, dtype=torch.float64)}, "float64"),
        ({"means": torch.ones(2, 10, 3, dtype=torch.int64)}, "int64"),
        ({"width": 0}, "0 x 32"),
        ({"backend": "opengl"}, "opengl"),
        ({"backend": "gsplat"}, "runs on cuda, got tensors on cpu"),
    ],
)
def test_bad_input_is_named(change: dict, words: str) -> None:
    arguments = {**random_scene(10), "width": 32, "height": 32} | change
    with pytest.raises(UserError) as error:
        rasterize(**arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_auto_takes_the_fast_painter() -> None:
    assert choose_backend(torch.device("cpu")) == "numba"


def test_gsplat_is_not_asked_for_what_it_cannot_do() -> None:
    cuda = torch.device("cuda")
    with pytest.raises(UserError, match="gradient to Ks"):
        choose_backend(cuda, "gsplat", gradient_of_Ks=True)
    with pytest.raises(UserError, match="float32, got torch.float64"):
        choose_backend(cuda, "gsplat", dtype=torch.float64)
    assert choose_backend(cuda, gradient_of_Ks=True) == "torch"


def test_without_numba_it_runs_and_says_once_that_it_is_slow() -> None:
    code = """
import sys
sys.modules["numba"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "numba" else find(name, *rest)
from embodied_liftwm.memory.gaussians import rasterize
from tests.gaussians.scenes import random_scene
for _ in range(2):
    print(rasterize(**random_scene(5), width=8, height=8).alphas.shape)
try:
    rasterize(**random_scene(5), width=8, height=8, backend="numba")
except ValueError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("slow") == 1
    assert "numba is not installed" in done.stdout


def test_works_after_a_fork() -> None:
    """Helper threads do not survive a fork; a child must not wait for them."""
    code = """
import os, torch
torch.set_num_threads(2)
from embodied_liftwm.memory.gaussians import rasterize
from tests.gaussians.scenes import random_scene
scene = random_scene(50)
expected = rasterize(**scene, width=32, height=32, backend="numba").alphas.detach()
child = os.fork()
if child == 0:
    with torch.no_grad():
        torch.set_num_threads(2)
        from embodied_liftwm.threads import for_each
        seen = []
        for_each(seen.append, [(k,) for k in range(8)])
        os._exit(0 if sorted(seen) == list(range(8)) else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
