"""Search for the cheapest imagined action sequence: MPPI and CEM, which differ in what they make of the costs.

Each samples sequences around the present plan, imagines all of them side by side, and moves the plan towards the cheap ones.

- MPPI weighs every sample by exp(-cost / temperature): information-theoretic model predictive path integral control,
  Williams et al. 2018, arXiv:1707.02342.
- CEM keeps the `num_elites` cheapest, weighs them alike and takes over their spread: the cross-entropy method, Rubinstein and
  Kroese 2004; for planning in a learned model Chua et al. 2018, arXiv:1805.12114.

No library carries this. `pytorch-mppi` 0.9 wants a state that is one flat vector and a cost of single steps, and knows no
discrete actions, while states here are trees that are expanded without copying and a touch is charged for the rest of a
sequence; `evotorch` 0.6 brings CEM, with Ray and pandas; `mbrl` 0.2 pins Gymnasium 0.26.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.protocols import WorldModel
from embodied_liftwm.tensor_tree import TensorTree
from liftwm_agents.planning.action_plan import ActionPlan

Cost = Callable[[Tensor, Tensor], Tensor]
"""(poses [S, T, 4, 4], actions [S, T, A]) -> cost of each sequence [S]."""


def path_integral_weights(costs: Tensor, temperature: float) -> Tensor:
    """exp(-cost / temperature), normalised. [S] -> [S]"""
    return torch.softmax(-(costs - costs.min()) / temperature, dim=0)


def elite_weights(costs: Tensor, num_elites: int) -> Tensor:
    """1 / num_elites for the cheapest, 0 for the others. [S] -> [S]"""
    elites = costs.argsort(stable=True)[:num_elites]
    return torch.zeros_like(costs).index_fill(0, elites, 1.0 / len(elites))


@torch.no_grad()
def imagine_poses(model: WorldModel, state: TensorTree, actions: Tensor) -> Tensor:
    """Where the believed ego camera goes under each action sequence.

    Args:
        model: the world model.
        state: batch of one; expanded without copying.
        actions: [S, T, A]

    Returns:
        world_from_camera after each step. [S, T, 4, 4]
    """
    imagined = state.expand(len(actions))
    device = model.ego_camera(state).world_from_camera.device
    poses = []
    for action in actions.to(device).unbind(dim=1):
        imagined = model.imagine(imagined, action)
        poses.append(model.ego_camera(imagined).world_from_camera)
    return torch.stack(poses, dim=1).cpu()


@torch.no_grad()
def improve_plan(
    plan: ActionPlan, model: WorldModel, state: TensorTree, cost: Cost, config: PlannerConfig, generator: torch.Generator
) -> None:
    """Move `plan` towards cheap action sequences, `config.iterations` times.

    Args:
        plan: of the model's actions; changed.
        model: imagines.
        state: where the sequences start, batch of one.
        cost: of imagined sequences.
        config: planner, num_samples, iterations, and temperature or num_elites are read.
        generator: of the samples.
    """
    for _ in range(config.iterations):
        samples = plan.sample(config.num_samples, generator)
        costs = cost(imagine_poses(model, state, samples), samples)
        if config.planner == "cem":
            plan.improve(samples, elite_weights(costs, config.num_elites), refit=True)
        else:
            plan.improve(samples, path_integral_weights(costs, config.temperature))
