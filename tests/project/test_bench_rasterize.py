"""`liftwm bench rasterize`: what it times is what it says, and what it writes is whole."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from embodied_liftwm.bench import rasterize as bench_rasterize
from embodied_liftwm.bench.rasterize import Case, dense_torch, make_scene
from embodied_liftwm.config import BenchConfig
from embodied_liftwm.memory.gaussians import rasterize
from embodied_liftwm.memory.gaussians.rasterizer.projection import front_to_back, project_gaussians

SMALL = Case(16, 24)


def test_dense_torch_is_front_to_back_compositing() -> None:
    """Against a loop over primitives that keeps a running transmittance for each pixel."""
    scene = make_scene(SMALL)
    means, quats, scales, opacities, features, viewmats, Ks = (tensor.detach() for tensor in scene)
    image, alphas, depths = dense_torch(scene, SMALL.size)
    flat = project_gaussians(means, quats, scales, opacities, viewmats, Ks, SMALL.size, SMALL.size, near=0.01, eps2d=0.3)
    order, counts = front_to_back(flat.depths, flat.radii)
    v, u = torch.meshgrid(torch.arange(SMALL.size) + 0.5, torch.arange(SMALL.size) + 0.5, indexing="ij")
    view = 3
    colour, depth, left = torch.zeros(16, 16, 16), torch.zeros(16, 16), torch.ones(16, 16)
    running = torch.ones(16, 16, dtype=torch.bool)
    for i in order[0, view, : counts[0, view]].tolist():
        (x, y), (xx, xy, yy) = flat.means2d[0, view, :, i], flat.conics[0, view, :, i]
        alpha = opacities[0, i] * torch.exp(-0.5 * (xx * (u - x) ** 2 + yy * (v - y) ** 2) - xy * (u - x) * (v - y))
        alpha = torch.where(alpha < 1 / 255, 0.0, alpha.clamp(max=0.999))
        running &= left * (1 - alpha) > 1e-4
        weight = torch.where(running, alpha * left, 0.0)
        colour, depth, left = (
            colour + weight[..., None] * features[0, i],
            depth + weight * flat.depths[0, view, i],
            left - weight,
        )
    torch.testing.assert_close(image[0, view], colour, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(depths[0, view, ..., 0], depth, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alphas[0, view, ..., 0], 1 - left, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", bench_rasterize.CASES)
def test_scenes_fill_their_images(case: Case) -> None:
    """Otherwise a kernel that skips what is empty would look fast. Every argument gets a gradient."""
    scene = make_scene(case)
    with torch.no_grad():
        alphas = rasterize(*scene, case.size, case.size).alphas
    assert alphas.shape == (1, 8, case.size, case.size, 1)
    assert alphas.mean() > 0.8
    assert scene.features.shape == (1, case.count, 16) and len(scene.leaves()) == 7


def test_table_and_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_rasterize, "CASES", (SMALL,))
    monkeypatch.setattr(bench_rasterize, "SECONDS_A_REPEAT", 0.0)
    before = torch.get_num_threads()
    assert bench_rasterize.run(BenchConfig(repeats=2, threads=2, out=str(tmp_path))) == 0
    assert torch.get_num_threads() == before
    rows = list(csv.DictReader((tmp_path / "bench_rasterize.csv").open()))
    timed = [row for row in rows if row["ms a view"]]
    assert [(r["backend"], r["threads"], r["repeat"]) for r in timed] == [
        (name, threads, repeat) for threads in "21" for name in ("dense torch", "torch", "numba") for repeat in "01"
    ]
    for row in timed:
        (dense,) = (
            r for r in timed if (r["backend"], r["threads"], r["repeat"]) == ("dense torch", row["threads"], row["repeat"])
        )
        ratio = float(dense["ms a view"]) / float(row["ms a view"])
        assert float(row["times dense torch's speed"]) == pytest.approx(ratio, rel=1e-3)
    off = {row["backend"]: float(row["off by, 1e-6"]) for row in rows if row["off by, 1e-6"]}
    assert off.keys() == {"numba - torch, image", "numba - torch, gradients"}
    assert all(0 < value < 100 for value in off.values())
    assert "forward and backward, px 16, N 24, channels 16" in capsys.readouterr().out
