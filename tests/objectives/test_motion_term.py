"""The motion term against its formula, and its gradients."""

import math

import torch

from embodied_liftwm.objectives.motion_term import MotionTerm
from embodied_liftwm.objectives.terms import TERMS, Moved, Rollout


def rollout(moved: Moved | None, batch_size: int = 2) -> Rollout:
    zeros = torch.zeros(batch_size, 3, 6)
    return Rollout(batch_size, None, None, zeros, zeros, zeros + 1.0, moved)


def drawn(frames: int = 4, judges: int = 2, velocities: int = 5, dtype: torch.dtype = torch.float32) -> Moved:
    generator = torch.Generator().manual_seed(0)
    log_belief = torch.log_softmax(torch.randn(frames, velocities, 3, 3, generator=generator, dtype=dtype), dim=1)
    cost = torch.rand(frames, judges, velocities, 3, 3, generator=generator, dtype=dtype)
    return Moved(log_belief, cost, torch.rand(cost.shape, generator=generator) < 0.7)


def test_it_is_among_the_terms_and_silent_where_nothing_can_move():
    assert TERMS["motion"] is MotionTerm
    assert MotionTerm().log_prob(rollout(None)).tolist() == [[0.0], [0.0]]


def test_velocities_are_summed_over_and_those_not_seen_left_out():
    moved, term = drawn(), MotionTerm()
    b = term.noise.log_scale.exp().item()
    expected = torch.zeros(4)
    for f in range(4):
        for y in range(3):
            for x in range(3):
                total = weights = 0.0
                for s in range(2):
                    seen = [v for v in range(5) if moved.known[f, s, v, y, x]]
                    belief = {v: moved.log_belief[f, v, y, x].exp().item() for v in seen}
                    share = sum(belief.values())
                    if not share:
                        continue
                    laplace = sum(belief[v] / share * math.exp(-moved.cost[f, s, v, y, x] / b) / (2 * b) for v in seen)
                    total += share * math.log((1 - term.OUTLIERS) * laplace + term.OUTLIERS)
                    weights += share
                expected[f] += total / max(weights, 1.0) / 9
    torch.testing.assert_close(term.log_prob(rollout(moved)).flatten(), expected, atol=1e-5, rtol=1e-5)


def test_gradients_in_belief_and_noise():
    moved, term = drawn(frames=2, velocities=3, dtype=torch.float64), MotionTerm().double()
    logits = moved.log_belief.clone().requires_grad_()
    every = moved._replace(known=torch.ones_like(moved.known))  # the weight of a source that sees part of it is held fixed

    def nats(logits: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
        belief = torch.log_softmax(logits, dim=1)
        found = {"noise.log_scale": log_scale}
        return torch.func.functional_call(term, found, (rollout(every._replace(log_belief=belief)),))

    term.forward = term.log_prob  # type: ignore[method-assign]
    assert torch.autograd.gradcheck(nats, (logits, term.noise.log_scale.detach().clone().requires_grad_()))


def test_belief_is_drawn_to_the_velocity_that_explains_and_judges_that_see_nothing_draw_nowhere():
    logits = torch.zeros(2, 4, 2, 2, requires_grad=True)
    cost = torch.full((2, 1, 4, 2, 2), 1.0)
    cost[:, :, 2] = 0.1
    known = torch.ones_like(cost, dtype=torch.bool)
    known[1] = False
    MotionTerm().log_prob(rollout(Moved(torch.log_softmax(logits, dim=1), cost, known))).sum().backward()
    assert logits.grad is not None
    assert bool((logits.grad[0].argmax(0) == 2).all()) and float(logits.grad[1].abs().max()) == 0.0
