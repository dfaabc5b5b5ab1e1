"""`liftwm bench rasterize`: a view forward and backward, by each backend and by dense torch, as ratios within one run.

Each case is a view in a batch of 8 with 16 channels and gradients to everything, cameras included; on CUDA not to the
intrinsics, to which gsplat gives none. Splats cover about 0.7 sqrt(pixels / N) px (one sigma), so that the image is full at
every N. The painters take turns within each repeat, so that whatever else the machine does meets all of them.

"dense torch" is what one writes first: every primitive in view at every pixel; one exponential, one cumulative product, one
product of matrices; autograd. Its graph takes 3 GB a view at 128 x 128 and N = 4,096, so it and the tiled reference are timed
on one view of the batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.bench.table import Row, machine, ratios, report, typical, using_threads
from embodied_liftwm.config import BenchConfig
from embodied_liftwm.geometry import se3_exp
from embodied_liftwm.memory.gaussians import choose_backend, rasterize
from embodied_liftwm.memory.gaussians.rasterizer import torch_backend
from embodied_liftwm.memory.gaussians.rasterizer.projection import project_gaussians
from embodied_liftwm.memory.gaussians.rasterizer.rasterize import Backend
from embodied_liftwm.terminal import plain_console

VIEWS = 8
CHANNELS = 16
NEAR_M, EPS2D = 0.01, 0.3  # the defaults of `rasterize`
SECONDS_A_REPEAT = 0.5
MS, TIMES_DENSE, OFF = "ms a view", "times dense torch's speed", "off by, 1e-6"


@dataclass(frozen=True)
class Case:
    """What to time."""

    size: int  # height and width of the images, pixels
    count: int  # primitives


CASES = (Case(64, 512), Case(64, 4096), Case(128, 4096))


class Scene(NamedTuple):
    """The arguments of `rasterize` up to Ks, in its order."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    features: Tensor
    viewmats: Tensor
    Ks: Tensor

    def leaves(self) -> list[Tensor]:
        """Where gradients are wanted."""
        return [tensor for tensor in self if tensor.requires_grad]


Render = Callable[[Scene, int], tuple[Tensor, ...]]
"""Scene and image size -> features, alphas, depths."""


@dataclass(frozen=True)
class Painter:
    """One line of the table."""

    name: str
    views: int  # of the batch that a call renders
    threads: int
    render: Render

    def step(self, case: Case, scene: Scene) -> None:
        """Forward and backward."""
        part = scene._replace(viewmats=scene.viewmats[:, : self.views], Ks=scene.Ks[:, : self.views])
        torch.autograd.grad([image.sum() for image in self.render(part, case.size)], scene.leaves())


def run(config: BenchConfig) -> int:
    """Time, print and write `bench_rasterize.csv`.

    Raises:
        UserError: the device's backend is not installed.
    """
    fast: Backend = "numba" if torch.device(config.device).type == "cpu" else "gsplat"
    choose_backend(torch.device(config.device), fast)
    console, rows = plain_console(), []
    for case in CASES:
        with console.status(f"timing {case.size} x {case.size} px, N = {case.count}"):
            scene = make_scene(case, config.device)
            rows += _timings(case, scene, config, _painters(fast, config))
            rows += _agreement(case, scene, fast)
    path = Path(config.out) / "bench_rasterize.csv"
    report(console, "forward and backward", rows, machine(fast, device=config.device), path)
    return 0


def make_scene(case: Case, device: str = "cpu") -> Scene:
    """One scene of random primitives that fill its 8 views; every tensor requires a gradient, on CUDA all but Ks."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(1, case.count, *shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, *shape, generator=generator)

    depth, focal, centre = 1 + 5 * uniform(), 0.6 * case.size, 0.5 * case.size
    sigma_px = 0.7 * (case.size**2 / case.count) ** 0.5
    tensors = (
        torch.stack([(uniform() - 0.5) * 1.7 * depth, (uniform() - 0.5) * 1.7 * depth, depth], dim=-1),
        torch.nn.functional.normalize(normal(case.count, 4), dim=-1),
        sigma_px * depth[..., None] / focal * torch.exp(0.3 * normal(case.count, 3)),
        0.05 + 0.9 * uniform(),
        uniform(CHANNELS),
        se3_exp(0.05 * normal(VIEWS, 6)),
        torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]]).expand(1, VIEWS, 3, 3).contiguous(),
    )
    scene = Scene(*(tensor.to(device).requires_grad_() for tensor in tensors))
    return scene if scene.means.is_cpu else scene._replace(Ks=scene.Ks.detach())


def ours(backend: Backend) -> Render:
    """Our call with one backend, as the models make it."""
    return lambda scene, size: rasterize(*scene, size, size, backend=backend, validate=False)


def dense_torch(scene: Scene, size: int) -> tuple[Tensor, ...]:
    """The reference with a single tile."""
    means, quats, scales, opacities, features, viewmats, Ks = scene
    projection = project_gaussians(means, quats, scales, opacities, viewmats, Ks, size, size, near=NEAR_M, eps2d=EPS2D)
    return torch_backend.paint(projection, opacities, features, size, size, tile=size)


def _painters(fast: Backend, config: BenchConfig) -> list[Painter]:
    """Dense torch comes first of its number of threads: the others' speeds are multiples of its."""
    threads = config.threads or os.cpu_count() or 1
    painters = []
    for count in dict.fromkeys([threads, 1] if fast == "numba" else [threads]):
        painters += [Painter("dense torch", 1, count, dense_torch), Painter("torch", 1, count, ours("torch"))]
        painters += [Painter(fast, VIEWS, count, ours(fast))]
    return painters


def _timings(case: Case, scene: Scene, config: BenchConfig, painters: list[Painter]) -> list[Row]:
    """A row for each painter: milliseconds, and speed beside dense torch."""
    of: dict[tuple[str, int], list[float]] = {(painter.name, painter.threads): [] for painter in painters}
    for _ in range(config.repeats):
        for painter in painters:
            of[painter.name, painter.threads].append(_milliseconds(case, scene, painter, config.device))
    return [
        _row(case, name, threads, {MS: values, TIMES_DENSE: ratios(of["dense torch", threads], values)})
        for (name, threads), values in of.items()
    ]


def _milliseconds(case: Case, scene: Scene, painter: Painter, device: str) -> float:
    with using_threads(painter.threads):
        return 1e3 * typical(lambda: painter.step(case, scene), SECONDS_A_REPEAT, device) / painter.views


def _agreement(case: Case, scene: Scene, fast: Backend) -> list[Row]:
    """How far the fast backend is from the reference on all 8 views, every value of every image weighted at random.

    Images: the largest difference (features in [0, 1], alphas, depths in metres). Gradients: the largest difference in a
    tensor as a share of that tensor's largest gradient, in the worst tensor.
    """
    (images, gradients), (expected_images, expected_gradients) = (_differentiate(case, scene, b) for b in (fast, "torch"))
    off = {
        "image": max(_largest(a - b) for a, b in zip(images, expected_images, strict=True)),
        "gradients": max(_largest(a - b) / _largest(b) for a, b in zip(gradients, expected_gradients, strict=True)),
    }
    threads = torch.get_num_threads()
    return [_row(case, f"{fast} - torch, {what}", threads, {OFF: [1e6 * value]}) for what, value in off.items()]


def _largest(tensor: Tensor) -> float:
    return tensor.detach().abs().max().item()


def _differentiate(case: Case, scene: Scene, backend: Backend) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    images = ours(backend)(scene, case.size)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(image.shape, generator=generator).to(image) for image in images]
    return images, torch.autograd.grad(images, scene.leaves(), weights)


def _row(case: Case, backend: str, threads: int, measures: dict[str, list[float]]) -> Row:
    about = {"px": case.size, "N": case.count, "channels": CHANNELS, "views": VIEWS}
    return Row(about | {"backend": backend, "threads": threads}, measures)
