"""The term that motion is learned from."""

from __future__ import annotations

from torch import Tensor

from embodied_liftwm.objectives.terms import LaplaceScale, Rollout, Term, log_marginal


class MotionTerm(Term):
    """p(x_s -> x_t | depth, velocity): what moves as the model believes must be found where frames of other times show it.

    For a source s of time t_s that was not matched, and a cell of x_t at X, the belief q over velocities is marginalised
    exactly:

        log p(x_t | x_s) = log( (1 - o) sum_v q(v | s sees v) Laplace(c_s(v); b) + o )

    where c_s(v) is the cost of `geometry.velocity_sweep`, the colour difference to x_s at X + v (t_s - t), b a learned
    scale, and o the share of outliers: cells that are hidden in s. Rest is among the velocities, so that motion is believed
    where it explains other frames better than rest does. As in `MultiViewTerm`, velocities that lead out of the source's image
    are neither favoured nor ruled out.
    """

    name = "motion"
    OUTLIERS = 0.02

    def __init__(self) -> None:
        super().__init__()
        self.noise = LaplaceScale(0.5)

    def log_prob(self, rollout: Rollout) -> Tensor:
        moved = rollout.moved
        if moved is None:
            return rollout.twist.new_zeros(rollout.batch_size, 1)
        nats = log_marginal(moved.log_belief, moved.cost, moved.known, self.noise, self.OUTLIERS)
        return nats.view(rollout.batch_size, -1)
