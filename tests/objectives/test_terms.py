"""Terms are likelihoods: each against its formula, and the marginal against a sum written out."""

import math

import pytest
import torch

from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.geometry.normals import coherence_errors
from embodied_liftwm.objectives.photometric import edge_aware_smoothness, photometric_error
from embodied_liftwm.objectives.terms import TERMS, DepthNormalTerm, LaplaceScale, Lifted, MultiViewTerm, Rollout, Viewed
from embodied_liftwm.protocols import Camera


def rollout(lifted: Lifted | None = None) -> Rollout:
    zeros = torch.zeros(2, 3, 6)
    return Rollout(2, lifted, None, zeros + 0.1, zeros, zeros + 0.5)


def lifted(log_belief: torch.Tensor, cost: torch.Tensor) -> Lifted:
    frames, _, _, height, width = cost.shape
    known = torch.ones_like(cost, dtype=torch.bool)
    depth, normal = torch.ones(frames, height, width), torch.zeros(frames, 3, height, width)
    rgb, intrinsics = torch.rand(frames, 3, height, width), torch.eye(3).expand(frames, 3, 3)
    return Lifted(log_belief, depth, cost, known, rgb, normal, intrinsics)


def test_a_learned_laplace_scale_is_best_at_the_mean_absolute_error():
    error = torch.tensor([0.1, 0.3])
    values = {b: LaplaceScale(b).log_prob(error).mean().item() for b in (0.1, 0.2, 0.4)}
    assert max(values, key=values.__getitem__) == 0.2
    assert values[0.2] == pytest.approx(-1.0 - math.log(0.4), abs=1e-5)


def test_frames_are_gaussian():
    target, mean, scale = 0.7, 0.4, 0.2
    shape = (4, 3, 2, 2)
    camera = Camera(torch.eye(3).expand(4, 3, 3), torch.eye(4).expand(4, 4, 4), 2, 2)
    nothing = torch.zeros(2, 3)
    viewed = Viewed(
        target_rgb=torch.full(shape, target), rgb=torch.full(shape, mean), scale=torch.full((4, 2, 2), scale),
        depth=torch.ones(4, 2, 2), camera=camera, source_rgb=torch.zeros(4, 0, 3, 2, 2),
        source_world_from_camera=torch.zeros(4, 0, 4, 4), lifted_depth=None, lifted_spread=None, seen=None, was_seen=None,
        kl=None, reward=nothing, reward_mean=nothing, continued=nothing, continuation=nothing,
    )  # fmt: skip
    expected = -0.5 * ((target - mean) / scale) ** 2 - math.log(scale) - 0.5 * math.log(2 * math.pi)
    found = TERMS["frame"]().log_prob(rollout()._replace(viewed=viewed))
    torch.testing.assert_close(found, torch.full((2, 2), expected))


def test_ego_motion_is_laplace():
    expected = -0.1 / 0.5 - math.log(1.0)
    torch.testing.assert_close(TERMS["ego_motion"]().log_prob(rollout()), torch.full((2, 3), expected))


def test_the_marginal_sums_over_planes_and_sources():
    torch.manual_seed(0)
    log_belief = torch.log_softmax(torch.randn(2, 4, 3, 3), dim=1)
    cost = 0.1 * torch.rand(2, 2, 4, 3, 3)
    term = MultiViewTerm()
    b = term.plane_noise.log_scale.exp().item()
    inlier = (log_belief.exp()[:, None] * torch.exp(-cost / b) / (2 * b)).sum(2)
    expected = torch.log((1 - term.OUTLIERS) * inlier + term.OUTLIERS).mean((1, 2, 3))
    torch.testing.assert_close(term.marginal(lifted(log_belief, cost)), expected)


def test_planes_outside_a_source_are_neither_favoured_nor_ruled_out():
    torch.manual_seed(0)
    logits = torch.randn(1, 5, 3, 3, requires_grad=True)
    found = lifted(torch.log_softmax(logits, dim=1), 0.05 * torch.rand(1, 1, 5, 3, 3))
    found.known[:, :, 3:] = False
    MultiViewTerm().marginal(found).sum().backward()
    assert logits.grad is not None
    assert float(logits.grad[:, 3:].abs().max()) < 1e-7  # the belief in what is not seen stays
    assert float(logits.grad[:, :3].sum(1).abs().max()) < 1e-7  # and so does that in what is, as a whole
    assert float(logits.grad[:, :3].abs().max()) > 1e-4
    found.known[:] = False
    assert float(MultiViewTerm().marginal(found).detach().abs().max()) == 0.0


def test_the_marginal_draws_belief_to_the_plane_that_explains():
    logits = torch.zeros(1, 5, 2, 2, requires_grad=True)
    cost = torch.full((1, 1, 5, 2, 2), 0.2)
    cost[:, :, 3] = 0.0
    MultiViewTerm().marginal(lifted(torch.log_softmax(logits, dim=1), cost)).sum().backward()
    assert bool((logits.grad.argmax(1) == 3).all())


@pytest.mark.parametrize("name", sorted(TERMS))
def test_terms_are_silent_where_nothing_was_lifted_or_viewed(name: str):
    found = TERMS[name]().log_prob(rollout())
    assert found.shape[0] == 2
    assert name == "ego_motion" or float(found.abs().max()) == 0.0


def test_photometric_error_is_zero_for_equal_images_and_grows_with_difference():
    image = torch.rand(1, 3, 8, 8)
    assert float(photometric_error(image, image).abs().max()) < 1e-5
    assert float(photometric_error(image, 1 - image).mean()) > float(photometric_error(image, 0.9 * image).mean())


def slanted_plane(normal: list[float], size: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Depth [1, H, W] of the plane n . x = -2 before a camera, its normals [1, 3, H, W] and the intrinsics; float64."""
    intrinsics = torch.tensor([[[0.8 * size, 0, size / 2], [0, 0.8 * size, size / 2], [0, 0, 1]]], dtype=torch.float64)
    n = torch.nn.functional.normalize(torch.tensor(normal, dtype=torch.float64), dim=0)
    depth = -2.0 / (camera_rays(intrinsics, size, size) @ n)
    return depth, n.view(1, 3, 1, 1).expand(1, 3, size, size).contiguous(), intrinsics


@pytest.mark.parametrize("normal", [[0.0, 0.0, -1.0], [0.5, 0.2, -1.0], [-0.3, -0.9, -1.2]])
def test_a_plane_is_coherent_with_its_normal_at_any_scale_and_with_no_other(normal: list[float]):
    depth, normals, intrinsics = slanted_plane(normal)
    assert float(coherence_errors(depth, normals, intrinsics, (1, 2)).max()) < 1e-12
    assert float(coherence_errors(7.0 * depth, normals, intrinsics, (1, 2)).max()) < 1e-12
    tilted = torch.nn.functional.normalize(normals + torch.tensor([0.3, 0, 0]).view(1, 3, 1, 1), dim=1)
    assert float(coherence_errors(depth, tilted, intrinsics, (1, 2)).mean()) > 0.01


def test_coherence_is_differentiable_in_depth_and_normals():
    depth, normals, intrinsics = slanted_plane([0.3, -0.2, -1.0], size=5)
    torch.manual_seed(0)
    depth = (depth * torch.exp(0.1 * torch.randn_like(depth))).requires_grad_()
    raw = (normals + 0.1 * torch.randn_like(normals)).requires_grad_()

    def errors(depth: torch.Tensor, raw: torch.Tensor) -> torch.Tensor:
        return coherence_errors(depth, torch.nn.functional.normalize(raw, dim=1), intrinsics, (1, 2))

    assert torch.autograd.gradcheck(errors, (depth, raw))


def roughness(log_depth: torch.Tensor) -> float:
    """How far the left and right halves are from planes, whose inverse depths are affine in the pixel."""
    inverse = torch.exp(-log_depth.detach())
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(6.0), indexing="ij")
    basis = torch.stack([rows, columns, torch.ones_like(rows)], dim=-1).reshape(-1, 3).double()
    halves = [half.reshape(-1, 1) / half.mean() for half in inverse.split(6, dim=2)]
    return float(sum((basis @ torch.linalg.lstsq(basis, half).solution - half).std() for half in halves))


def test_depth_normal_pulls_a_rough_plane_flat_and_lets_an_edge_stand():
    depth, _, intrinsics = slanted_plane([0.4, 0.1, -1.0])
    torch.manual_seed(0)
    truth = depth.clone()
    truth[:, :, 6:] *= 1.5  # another surface, as steep, behind
    log_depth = (truth.log() + 0.05 * torch.randn_like(truth)).requires_grad_()
    raw = torch.tensor([0.0, 0.0, -1.0], dtype=torch.float64).view(1, 3, 1, 1).repeat(1, 1, 12, 12).requires_grad_()
    term = DepthNormalTerm().double()
    before = roughness(log_depth)
    optimizer = torch.optim.Adam([log_depth, raw], 5e-3)
    for _ in range(300):
        empty = torch.zeros(1, 1, 1, 1, 1)
        found = Lifted(
            empty[0], log_depth.exp(), empty, empty > 1, empty[0], torch.nn.functional.normalize(raw, dim=1), intrinsics
        )
        loss = -term.log_prob(rollout(found)._replace(batch_size=1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert roughness(log_depth) < 0.2 * before
    step = (log_depth - truth.log()).detach()
    assert float(step[:, :, 6].mean() - step[:, :, 5].mean()) == pytest.approx(0.0, abs=0.5 * math.log(1.5))


def test_smoothness_forgives_slopes_at_image_edges():
    depth = torch.ones(1, 4, 4)
    depth[:, :, 2:] = 3.0
    edge = torch.zeros(1, 3, 4, 4)
    edge[..., 2:] = 1.0
    assert float(edge_aware_smoothness(depth, edge)) < 1e-3 * float(edge_aware_smoothness(depth, torch.zeros_like(edge)))
