"""Forward and backward of the rasterizer: numba beside the torch reference, tiled and dense, as ratios within one run.

    python benchmarks/rasterize.py [--threads 2] [--repeats 5]

A view of a batch of 8, 16 channels, gradients to everything, cameras included. Splats cover about 0.7 sqrt(pixels / N) px
(one sigma), so that the image is full at every N.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from embodied_liftwm.gaussians import rasterize, torch_backend
from embodied_liftwm.gaussians.projection import project_gaussians
from embodied_liftwm.geometry import se3_exp

VIEWS = 8
CHANNELS = 16
CASES = ((64, 512), (64, 4096))


def make_scene(size: int, count: int, views: int = VIEWS) -> list[Tensor]:
    """Arguments of `rasterize` up to Ks: random primitives that fill the views."""
    torch.manual_seed(0)
    depth = 1 + 5 * torch.rand(1, count)
    means = torch.stack([(torch.rand(1, count) - 0.5) * 1.7 * depth, (torch.rand(1, count) - 0.5) * 1.7 * depth, depth], dim=-1)
    sigma_px = 0.7 * (size * size / count) ** 0.5
    focal = 0.6 * size
    scene = [
        means,
        torch.nn.functional.normalize(torch.randn(1, count, 4), dim=-1),
        sigma_px * depth[..., None] / focal * torch.exp(0.3 * torch.randn(1, count, 3)),
        0.05 + 0.9 * torch.rand(1, count),
        torch.rand(1, count, CHANNELS),
        se3_exp(0.05 * torch.randn(1, views, 6)),
        torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]).expand(1, views, 3, 3).contiguous(),
    ]
    return [tensor.requires_grad_() for tensor in scene]


def step(scene: list[Tensor], size: int, backend: str, views: int) -> None:
    """Forward and backward of `views` views."""
    scene = [*scene[:5], scene[5][:, :views], scene[6][:, :views]]
    if backend == "torch dense":
        projection = project_gaussians(*scene[:4], *scene[5:], size, size, near=0.01, eps2d=0.3)
        images = torch_backend.paint(projection, scene[3], scene[4], size, size, tile=size)
    else:
        name = "torch" if backend == "torch tiled" else backend
        images = tuple(rasterize(*scene, size, size, backend=name, validate=False))
    torch.autograd.grad([image.sum() for image in images], scene)


def milliseconds(function: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median and spread (largest less smallest) after one call to warm up."""
    function()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds), 1e3 * (max(seconds) - min(seconds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    parser.add_argument("--repeats", type=int, default=5, help="timings, of which the median is printed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.threads} threads, {CHANNELS} channels, {options.repeats} repeats")
    print(f"{'size':>5} {'N':>6} {'backend':>12} {'ms a view':>10} {'spread':>7} {'times numba':>12}")
    for size, count in CASES:
        scene = make_scene(size, count)
        fastest = None
        for backend, views in (("numba", VIEWS), ("torch tiled", 1), ("torch dense", 1)):
            median, spread = milliseconds(lambda b=backend, v=views, s=scene, e=size: step(s, e, b, v), options.repeats)
            median, spread = median / views, spread / views
            fastest = fastest or median
            print(f"{size:5} {count:6} {backend:>12} {median:10.2f} {spread:7.2f} {median / fastest:12.1f}", flush=True)


if __name__ == "__main__":
    main()
