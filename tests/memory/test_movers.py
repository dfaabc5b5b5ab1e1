"""Things that move: they go on while a screen hides them, are taken away where they are no longer, and never grow in number."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from embodied_liftwm.data.sampling import RECENT
from embodied_liftwm.memory.frames.recent import STEPS
from embodied_liftwm.memory.movers import MoverDynamics, Movers, Sight, read_movers, write_movers
from embodied_liftwm.protocols import Camera
from tests.memory.rooms import camera

STRIDE, CELLS, LATENTS = 2, 24, 2
HOME = camera((0.0, 0.0, 1.0))  # looks along x: cell columns run along -y
WALL_M, SCREEN_M, THING_M = 4.0, 1.0, 2.0
VELOCITY = torch.tensor([0.0, 0.04, 0.0])
RED, BLUE = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0])
LIKE = torch.zeros(())


def sight(*, thing_at: float | None = None, screen: bool = False, speed: float = 0.04) -> Sight:
    """A blue wall, perhaps a red thing 0.5 m wide around y = `thing_at`, perhaps a screen before everything."""
    y = -(torch.arange(CELLS) + 0.5 - CELLS / 2) * STRIDE / 40.0 * THING_M  # of each column, at the depth of the thing
    red = torch.zeros(CELLS, dtype=torch.bool) if thing_at is None else (y - thing_at).abs() < 0.25
    red = red.expand(1, CELLS, CELLS).clone()
    red[:, : CELLS // 3] = False
    depth = torch.where(red, THING_M, WALL_M)
    if screen:
        depth, red = torch.full_like(depth, SCREEN_M), torch.zeros_like(red)
    velocity = torch.where(red.unsqueeze(1), torch.tensor([0.0, speed, 0.0]).view(1, 3, 1, 1), 0.0)
    colours = torch.where(red.unsqueeze(1), RED.view(1, 3, 1, 1), BLUE.view(1, 3, 1, 1))
    latents = red.float().unsqueeze(1).expand(-1, LATENTS, -1, -1)
    return Sight(depth, torch.full_like(depth, 400.0), velocity, red.float(), latents, colours)


def watched(steps: int = 3, budget: int = 200) -> Movers:
    """The thing, seen for some steps as it goes from y = -0.5 on."""
    movers, dynamics = Movers.empty(1, budget, LATENTS, LIKE), steady()
    for step in range(steps):
        movers = write_movers(dynamics(movers, torch.ones(1)), sight(thing_at=-0.5 + 0.04 * step), HOME, STRIDE)
    return movers


def steady() -> MoverDynamics:
    """Dynamics that hardly lose any velocity."""
    dynamics = MoverDynamics()
    with torch.no_grad():
        dynamics.loss_logit.fill_(-12.0)
    return dynamics.requires_grad_(False)


def there(movers: Movers) -> Tensor:
    """Points that are not free. [K, 3]"""
    return movers.means[movers.evidence > 0]


def test_what_moves_is_kept_with_its_place_velocity_and_looks() -> None:
    movers = watched()
    points = there(movers)
    assert 20 < len(points) < 200
    assert torch.allclose(points[:, 0], torch.tensor(THING_M))
    assert float(points[:, 1].mean()) == pytest.approx(-0.5 + 0.08, abs=0.06)  # cells are 0.1 m wide there
    kept = movers.evidence > 0
    assert torch.allclose(movers.velocities[kept], VELOCITY, atol=1e-4)
    assert torch.equal(movers.rgb[kept], RED.expand(len(points), 3)) and bool((movers.unseen[kept] == 0).all())
    assert float(movers.looks[kept].median()) > 2


def test_hidden_behind_a_screen_it_goes_on_and_comes_out_elsewhere() -> None:
    movers, dynamics = watched(), steady()
    before = there(movers)
    for _ in range(20):
        movers = write_movers(dynamics(movers, torch.ones(1)), sight(screen=True), HOME, STRIDE)
    after = there(movers)
    assert len(after) == len(before)
    moved = after.mean(0) - before.mean(0)
    assert torch.allclose(moved, 20 * VELOCITY, atol=0.01)
    assert float(movers.unseen.max()) == 20
    assert float(movers.evidence.max()) < 400.0, "where it is becomes unsure"
    shown = read_movers(movers, movers.rgb, HOME)
    columns = shown.visible[0].amax(0).nonzero().squeeze(1).float()
    expected = 24 - 40.0 * float(after[:, 1].mean()) / THING_M
    assert float(columns.mean()) == pytest.approx(expected, abs=1.5)


def test_what_is_seen_through_is_gone_and_what_is_out_of_view_stays() -> None:
    movers = watched()
    assert not len(there(write_movers(movers, sight(), HOME, STRIDE))), "the wall shows where it should be"
    away = camera((0.0, 0.0, 1.0), yaw=3.0)
    kept = there(write_movers(movers, sight(), away, STRIDE))
    assert torch.equal(kept.unique(dim=0), there(movers).unique(dim=0))
    unknown = sight()._replace(certainty=torch.zeros(1, CELLS, CELLS))
    assert len(there(write_movers(movers, unknown, HOME, STRIDE))) == len(there(movers))


def test_what_seems_to_stand_still_in_its_colour_is_followed_and_what_hides_it_from_close_by_is_not_it() -> None:
    movers, dynamics = watched(), steady()
    unnoticed = sight(thing_at=-0.5 + 0.04 * 3)._replace(moving=torch.zeros(1, CELLS, CELLS))
    followed = write_movers(dynamics(movers, torch.ones(1)), unnoticed, HOME, STRIDE)
    assert len(there(followed)) >= 0.75 * len(there(movers))  # the wall is seen through what stands over at its side
    assert float(followed.unseen[followed.evidence > 0].median()) == 0
    lid = sight(screen=True)
    lid = lid._replace(depth=torch.full_like(lid.depth, THING_M - 0.15))  # within the tolerance, but blue
    hidden = write_movers(dynamics(movers, torch.ones(1)), lid, HOME, STRIDE)
    assert len(there(hidden)) == len(there(movers)) and float(hidden.unseen[hidden.evidence > 0].min()) == 1


def test_what_was_seen_to_move_once_or_twice_is_forgotten_when_it_is_not_again() -> None:
    for steps, remembered in ((1, False), (2, False), (4, True)):
        after = write_movers(watched(steps), sight(screen=True), HOME, STRIDE)
        assert bool(len(there(after))) == remembered


def test_velocities_are_the_mean_of_several_looks() -> None:
    movers, dynamics = Movers.empty(1, 200, LATENTS, LIKE), steady()
    for step, speed in enumerate([0.02, 0.06, 0.02, 0.06, 0.04]):
        movers = write_movers(dynamics(movers, torch.ones(1)), sight(thing_at=-0.5 + 0.04 * step, speed=speed), HOME, STRIDE)
    middle = movers.velocities[movers.evidence > 0][:, 1].median()
    assert float(middle) == pytest.approx(0.04, abs=0.006)


def test_the_budget_holds_and_what_is_in_view_comes_first() -> None:
    movers, dynamics = watched(budget=30), steady()
    assert len(there(movers)) == 30
    for _ in range(10):
        movers = write_movers(dynamics(movers, torch.ones(1)), sight(screen=True), HOME, STRIDE)
    movers = write_movers(movers, sight(thing_at=-0.3, speed=-0.01), HOME, STRIDE)
    assert len(there(movers)) == 30 and float(movers.unseen.max()) == 0
    assert movers.nbytes() == Movers.empty(1, 30, LATENTS, LIKE).nbytes()


def test_time_in_one_go_in_steps_and_back_again() -> None:
    torch.manual_seed(0)
    dynamics = MoverDynamics().double()
    with torch.no_grad():
        dynamics.loss_logit.fill_(-2.0)
    start = watched().map(lambda t: t.double())
    start = replace(start, velocities=torch.randn_like(start.velocities))
    once, stepwise = dynamics(start, torch.tensor([5.0], dtype=torch.float64)), start
    for _ in range(5):
        stepwise = dynamics(stepwise, torch.ones(1, dtype=torch.float64))
    assert torch.allclose(once.means, stepwise.means) and torch.allclose(once.velocities, stepwise.velocities)
    loss = 1 / (1 + torch.exp(torch.tensor(2.0, dtype=torch.float64)))
    assert torch.allclose(once.velocities, (1 - loss) ** 5 * start.velocities)
    back = dynamics(once, torch.tensor([-5.0], dtype=torch.float64))
    assert torch.allclose(back.means, start.means) and torch.allclose(back.velocities, start.velocities)
    assert torch.equal(dynamics(start, torch.zeros(1, dtype=torch.float64)).means, start.means)


def test_dynamics_learn_from_where_things_come_out() -> None:
    """A thing that really loses a tenth of its speed a step."""
    movers, dynamics = watched().detach(), MoverDynamics()
    true = movers.means + movers.velocities * (1 - 0.9**10) / 0.1
    optimizer = torch.optim.Adam(dynamics.parameters(), 0.2)
    for _ in range(60):
        optimizer.zero_grad()
        (dynamics(movers, torch.full((1,), 10.0)).means - true).square().sum().backward()
        optimizer.step()
    assert float(torch.sigmoid(dynamics.loss_logit.detach())) == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("nearer", [1.0, 0.5])
def test_a_point_is_as_large_as_the_cell_that_it_was_seen_through(nearer: float) -> None:
    movers = watched()
    close = camera((THING_M * (1 - nearer), 0.0, 1.0))
    shown = read_movers(movers, movers.rgb, close)
    covered = float((shown.visible[0] > 0.5).sum())
    points = there(movers)
    area = float((movers.sizes[movers.evidence > 0] * 40.0 / (THING_M * nearer)).square().sum())
    centre = torch.tensor([0.0, 1.0])  # of the image, in y and z
    inside = (40.0 * (points[:, 1:] - centre) / (THING_M * nearer)).abs().amax(1) < 24
    assert covered == pytest.approx(area * float(inside.float().mean()), rel=0.25)
    assert torch.allclose(shown.latents[0, :, shown.visible[0] > 0.5], RED[:, None])
    assert torch.allclose(shown.depths[0, shown.visible[0] > 0.5], torch.tensor(THING_M * nearer), atol=1e-3)


def test_gradients_reach_latents_and_dynamics() -> None:
    movers, dynamics = watched(), MoverDynamics()
    latents = movers.latents.clone().requires_grad_()
    later = dynamics(replace(movers, latents=latents), torch.full((1,), 3.0))
    read = read_movers(later, torch.cat([later.latents, later.rgb], dim=-1), HOME)
    (read.latents.sum() + read.depths.sum() + (read.latents * torch.rand_like(read.latents)).sum()).backward()
    assert latents.grad is not None and bool((latents.grad != 0).any())
    assert dynamics.loss_logit.grad is not None and bool(dynamics.loss_logit.grad != 0)


def test_rows_are_alone() -> None:
    one, none = watched(), Movers.empty(1, 200, LATENTS, LIKE)
    both = Movers(*(torch.cat(pair) for pair in zip(one.named_tensors().values(), none.named_tensors().values(), strict=True)))
    views = Camera(HOME.intrinsics.expand(2, 3, 3), HOME.world_from_camera.expand(2, 4, 4), HOME.height, HOME.width)
    shown = read_movers(both, both.rgb, views)
    assert float(shown.visible[0].sum()) > 50 and float(shown.visible[1].sum()) == 0
    torch.testing.assert_close(shown.visible[0], read_movers(one, one.rgb, HOME).visible[0], atol=1e-6, rtol=0)


def test_training_shows_the_frames_that_a_model_will_have() -> None:
    assert tuple(-steps for steps in STEPS) == RECENT
