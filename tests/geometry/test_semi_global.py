"""Semi-global matching: the compiled kernel and its torch twin agree with paths written out in full."""

import itertools

import numpy as np
import torch

from embodied_liftwm.geometry.matching.semi_global import EDGE_SHARPNESS, JUMP_PENALTY, STEP_PENALTY, semi_global


def volume(seed: int, height: int = 5, width: int = 7, planes: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    cost = 20.0 * torch.rand(2, planes, height, width, generator=generator)
    return cost, torch.rand(2, 3, height, width, generator=generator)


def test_kernel_and_torch_agree():
    cost, guide = volume(0)
    slow = semi_global(cost.double(), guide.double())
    torch.testing.assert_close(semi_global(cost, guide).double(), slow, atol=1e-4, rtol=1e-5)


def test_a_row_is_the_cheapest_of_all_sequences():
    """One row of four cells: every sequence of planes is priced; of a path's cost only differences between planes matter."""
    cost, guide = volume(1, height=1, width=4, planes=4)
    found = semi_global(cost, guide)[0, :, 0].numpy()
    cost0, guide0 = cost[0, :, 0].numpy(), guide[0, :, 0].numpy()
    jump = [
        STEP_PENALTY + (JUMP_PENALTY - STEP_PENALTY) * np.exp(-EDGE_SHARPNESS * abs(guide0[:, k + 1] - guide0[:, k]).sum())
        for k in range(3)
    ]

    def price(sequence: tuple[int, ...], cells: list[int]) -> float:
        total = sum(cost0[p, x] for p, x in zip(sequence, cells, strict=True))
        for (p, q), (x, y) in zip(itertools.pairwise(sequence), itertools.pairwise(cells), strict=True):
            total += 0.0 if p == q else min(STEP_PENALTY if abs(p - q) == 1 else np.inf, jump[min(x, y)])
        return total

    def best(cells: list[int]) -> np.ndarray:
        """Cheapest sequence that ends in each plane. [P]"""
        return np.array(
            [min(price((*head, p), cells) for head in itertools.product(range(4), repeat=len(cells) - 1)) for p in range(4)]
        )

    for x in range(4):
        paths = [best(list(range(x + 1))), best(list(range(3, x - 1, -1)))]
        expected = (sum(paths) + 2 * cost0[:, x]) / 4  # above and below there is nothing but the cell itself
        np.testing.assert_allclose(found[:, x] - found[0, x], expected - expected[0], atol=1e-4)


def test_an_even_cost_stays_as_it_is():
    cost, guide = torch.full((1, 5, 6, 6), 1.5), torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(semi_global(cost, guide), cost)


def test_cells_without_evidence_follow_their_neighbours_up_to_an_edge():
    cost = torch.ones(1, 8, 6, 12)
    cost[0, 2, :, :2], cost[0, 6, :, -2:] = 0.0, 0.0
    guide = torch.zeros(1, 3, 6, 12)
    guide[..., 6:] = 1.0
    best = semi_global(cost, guide).argmin(1)[0]
    assert (best[:, :6] == 2).all() and (best[:, 6:] == 6).all()


def test_frames_do_not_mix():
    cost, guide = volume(3)
    alone = torch.cat([semi_global(cost[k : k + 1], guide[k : k + 1]) for k in range(2)])
    torch.testing.assert_close(semi_global(cost, guide), alone, atol=0, rtol=0)
