"""The motion encoder finds what moves in rendered frames, untrained already, and learning does not set the walls in motion."""

import pytest
import torch

from embodied_liftwm.objectives.motion_term import MotionTerm
from embodied_liftwm.objectives.terms import Moved, Rollout
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.motion import GRID_M, REST_LOG_ODDS, Motion, MotionEncoder, Recent
from tests.sliding_box import FORWARD, LATER, RECENT, SIDEWAYS, STILL, TURNING, VELOCITY, Seen, look

TRUE_SPREAD, DOUBT = 0.02, 0.05
TRAVELS = (STILL, FORWARD, SIDEWAYS, TURNING)


def recent(seen: Seen) -> Recent:
    past = (torch.arange(seen.steps.shape[1]) < len(RECENT))[None]
    return Recent(seen.other_rgb, seen.other_poses, seen.steps, past, ~past)


def believe(seen: Seen, error: float = 0.0, model: MotionEncoder | None = None) -> Motion:
    """With depth that is wrong by a share, and known to be no better than that."""
    spread = torch.full_like(seen.depth, max(TRUE_SPREAD, abs(error)))
    with torch.no_grad():
        return (model or MotionEncoder())(seen.rgb, seen.camera, (1 + error) * seen.depth, spread, recent(seen))


def shares(seen: Seen, motion: Motion, velocity: tuple[float, ...]) -> tuple[float, float, float]:
    """Of the box: found moving, and with the right sideways velocity up to a grid step. Of the wall: found at rest."""
    moving = motion.moving[0] > 0.5
    near = (motion.velocity[0, 1] - velocity[1]).abs() < GRID_M
    return tuple(float(x.float().mean()) for x in (moving[seen.on_box], near[seen.on_box], ~moving[seen.on_wall]))


@pytest.mark.parametrize("travel", TRAVELS)
@pytest.mark.parametrize("velocity", [VELOCITY, (0.0, -0.025, 0.0), (0.03, 0.03, 0.0)])
def test_untrained_it_finds_the_box_moving_and_the_wall_at_rest(velocity: tuple, travel: tuple):
    seen = look(velocity, travel)
    moving, near, rest = shares(seen, believe(seen), velocity)
    assert moving > 0.6 and near > 0.9 and rest > 0.99


@pytest.mark.parametrize("error", [-0.05, 0.05])
@pytest.mark.parametrize("travel", TRAVELS)
def test_a_wrong_depth_does_not_set_the_wall_in_motion(travel: tuple, error: float):
    seen = look(travel=travel)
    moving, near, rest = shares(seen, believe(seen, error), VELOCITY)
    assert moving > 0.5 and near > 0.8 and rest > 0.99


def test_a_wall_without_texture_rests():
    seen = look(travel=FORWARD, textured=False)
    assert float(believe(seen).moving[0][seen.clear].max()) < 0.05


def test_without_usable_frames_the_prior_remains():
    seen = look()
    given, model = recent(seen), MotionEncoder()
    torch.nn.init.normal_(model.head[-1].weight)
    none = given._replace(usable=torch.zeros_like(given.usable))
    empty = Recent(*(x[:, :0] for x in given))
    for others in (none, empty):
        motion = model(seen.rgb, seen.camera, seen.depth, 0.1 * seen.depth, others)
        torch.testing.assert_close(
            motion.moving, torch.full_like(seen.depth, 1 / (1 + torch.tensor(REST_LOG_ODDS).exp().item()))
        )
        assert float(motion.velocity.detach().abs().max()) < 1e-6


def test_beliefs_are_probabilities_and_velocity_is_their_mean():
    model, seen = MotionEncoder(), look(travel=TURNING)
    motion = believe(seen, model=model)
    belief = motion.log_belief[0].exp().double()
    torch.testing.assert_close(belief.sum(0), torch.ones_like(belief[0]), atol=1e-5, rtol=0)
    moves = (model.velocities != 0).any(1)
    torch.testing.assert_close(motion.moving[0].double(), belief[moves].sum(0), atol=1e-6, rtol=1e-4)
    mean = torch.einsum("vhw,vi->ihw", belief[moves], model.velocities[moves].double()) / belief[moves].sum(0)
    torch.testing.assert_close(motion.velocity[0].double(), mean, atol=1e-6, rtol=1e-4)


def test_judges_do_not_touch_the_belief_and_each_row_has_its_own():
    model, seen = MotionEncoder(), look()
    given = recent(seen)
    spread = torch.full_like(seen.depth, TRUE_SPREAD)
    motion, sweep = model.match_and_judge(seen.rgb, seen.camera, seen.depth, spread, given)
    torch.testing.assert_close(motion.log_belief, model(seen.rgb, seen.camera, seen.depth, spread, given).log_belief)
    assert sweep.cost.shape == (1, len(LATER), len(model.velocities), 32, 32) and bool(sweep.known.any(2).all())
    judges = torch.cat([given.judges & (given.steps > 2), given.usable], dim=0)
    pairs = Recent(*(torch.cat([x, x]) for x in given[:3]), usable=torch.zeros_like(judges), judges=judges)
    two = Camera(*(torch.cat([x, x]) for x in (seen.camera.intrinsics, seen.camera.world_from_camera)), 64, 64)
    twice = (torch.cat([x, x]) for x in (seen.depth, spread))
    found = model.match_and_judge(torch.cat([seen.rgb, seen.rgb]), two, *twice, pairs)[1]
    assert found.known.any((2, 3, 4)).tolist() == [[False, False, False, True, True], [True, True, True, False, False]]
    torch.testing.assert_close(found.cost[0, 3:], sweep.cost[0, 2:])


def test_learning_does_not_set_the_wall_in_motion():
    torch.manual_seed(0)
    model, term = MotionEncoder(), MotionTerm()
    optimizer = torch.optim.Adam([*model.parameters(), *term.parameters()], 3e-3)
    scenes = [look(travel=travel) for travel in (FORWARD, SIDEWAYS)]
    nats = []
    for step in range(60):
        seen = scenes[step % 2]
        spread = torch.full_like(seen.depth, DOUBT)
        motion, sweep = model.match_and_judge(seen.rgb, seen.camera, 1.05 * seen.depth, spread, recent(seen))
        moved = Moved(motion.log_belief, sweep.cost, sweep.known)
        bound = term.log_prob(Rollout(1, None, None, *[torch.zeros(1, 1, 6)] * 3, moved)).mean()
        optimizer.zero_grad()
        (-bound).backward()
        nats.append(bound.item())
        optimizer.step()
    assert nats[-1] + nats[-2] > nats[0] + nats[1] + 0.05
    for travel in TRAVELS:
        seen = look(travel=travel)
        moving, near, rest = shares(seen, believe(seen, 0.05, model), VELOCITY)
        assert moving > 0.6 and near > 0.8 and rest > 0.98
