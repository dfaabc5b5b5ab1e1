"""Coarsen: a full budget loses detail, never places and never colours."""

import torch

from embodied_liftwm.memory.gaussians.coarsen import FILL, coarsen
from embodied_liftwm.memory.gaussians.map import GaussianMap


def cloud(count: int, edge: float = 2.0, rows: int = 1) -> GaussianMap:
    generator = torch.Generator().manual_seed(0)
    means = edge * torch.rand(rows, count, 3, generator=generator)
    red = torch.tensor([0.9, 0.1, 0.1]).where(means[..., :1] > edge / 2, torch.tensor([0.1, 0.1, 0.9]))
    base = GaussianMap.empty(rows, count, 2, torch.zeros(()))
    full = torch.full((rows, count), 0.8)
    return GaussianMap(means, base.quats, base.scales, full, red, torch.ones(rows, count, 2), 1.0 + full)


def test_it_fits_and_covers_the_same_places_in_the_same_colours():
    before = cloud(2000)
    after = coarsen(before, 200)
    kept = after.occupied[0]
    assert after.means.shape == (1, 200, 3)
    assert 0.2 * 200 < int(kept.sum()) <= FILL * 200
    distance = torch.cdist(before.means[0], after.means[0, kept])
    assert float(distance.amin(1).max()) < 0.8
    colours = after.rgb[0, kept]
    assert float(torch.cdist(colours, before.rgb[0].unique(dim=0)).amin(1).max()) < 1e-2
    torch.testing.assert_close(after.latents[0, kept], torch.ones(int(kept.sum()), 2))
    assert float(after.opacities[0, ~kept].abs().sum()) == 0.0


def test_rows_are_coarsened_by_themselves():
    small, large = cloud(300, edge=0.1), cloud(300, edge=20.0)
    both = small.map(lambda t: t)
    names = iter(large.named_tensors().values())
    both = both.map(lambda t: torch.cat([t, next(names)]))
    together = coarsen(both, 100)
    alone = coarsen(large, 100)
    torch.testing.assert_close(together.means[1], alone.means[0])


def test_what_is_coarser_than_the_grid_is_left_alone():
    sparse = cloud(50, edge=50.0)
    after = coarsen(sparse, 100)
    kept = after.occupied[0]
    assert int(kept.sum()) == 50
    torch.testing.assert_close(after.scales[0, kept], sparse.scales[0])


def test_gradients_flow_through_a_merge():
    before = cloud(500)
    latents = torch.zeros_like(before.latents, requires_grad=True)
    changed = GaussianMap(**{**before.named_tensors(), "latents": latents})
    coarsen(changed, 50).latents.sum().backward()
    assert float(latents.grad.abs().min()) > 0.0
