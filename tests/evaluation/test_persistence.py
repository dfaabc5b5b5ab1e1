import numpy as np
import pytest

from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.persistence import find_revisits
from embodied_liftwm.evaluation.views.mean_colour import mean_colour_of
from tests.scoring import evaluate_persistence


def pixels(*counts):
    return np.array(counts)[:, None]


def test_a_revisit_is_seen_gone_and_back():
    (revisit,) = find_revisits(pixels(20, 9, 0, 0, 0, 4, 30, 50, 60, 70), np.array([7]))
    assert (revisit.object_id, revisit.last_seen, revisit.entry, revisit.frame) == (7, 1, 5, 8)
    assert (revisit.gap, revisit.pixels, revisit.entry_pixels) == (7, 60, 4)


@pytest.mark.parametrize(
    "counts",
    [
        (20, 9, 4, 30, 50),  # never gone: 4 px are a trace
        (7, 0, 0, 30, 50),  # never in view before
        (20, 0, 0, 7, 7, 7, 7, 90),  # back for a sliver only; later it is no longer blind
        (20, 20, 0, 0, 2),  # not back
        (0, 0, 30),  # first sight
    ],
)
def test_what_is_no_revisit(counts):
    assert find_revisits(pixels(*counts), np.array([1])) == []


def test_a_trace_restarts_the_gap():
    (revisit,) = find_revisits(pixels(20, 0, 0, 0, 3, 0, 12), np.array([1]))
    assert (revisit.last_seen, revisit.entry, revisit.gap) == (4, 6, 2)


def test_every_object_and_every_return_is_a_pair():
    both = np.concatenate([pixels(9, 0, 9, 0, 9), pixels(0, 9, 0, 0, 9)], axis=1)
    assert [(r.object_id, r.entry) for r in find_revisits(both, np.array([1, 2]))] == [(1, 2), (1, 4), (2, 4)]


def test_scores_foreseen(episodes, clairvoyant, cloud, last_frame):
    named = {"all": clairvoyant, "cloud": cloud, "last": last_frame, "floor": mean_colour_of(episodes)}
    rows = evaluate_persistence([CheckedModel(m, name) for name, m in named.items()], episodes)
    by_model = {name: [row for row in rows if row.model == name] for name in named}
    pairs = {name: [(r.episode, r.object_id, r.frame, r.gap) for r in mine] for name, mine in by_model.items()}
    assert pairs["all"] == pairs["cloud"] == pairs["last"] and len(pairs["all"]) >= 2
    assert all(row.gap >= 10 for row in rows)  # the camera turns all the way round
    assert all(row.score == 1.0 and row.colour_share == 1.0 and row.depth_share == 1.0 for row in by_model["all"])
    assert all(row.floor < 0.2 for row in by_model["all"])  # the other world has nothing there
    assert np.mean([row.score for row in by_model["cloud"]]) > 0.7  # holes between points aside
    assert all(row.score == 0.0 for row in by_model["last"])  # the last frame faces elsewhere: depth is missing
    assert all(row.score <= min(row.colour_share, row.depth_share) for row in rows)


def test_one_episode_has_no_floor(episodes, cloud):
    rows = evaluate_persistence([CheckedModel(cloud, "cloud")], episodes[:1])
    assert rows and all(np.isnan(row.floor) for row in rows)


def test_the_model_is_blind_from_the_entry_on(episodes, cloud):
    """It must not have observed any frame from the entry on when it is asked."""

    class Spy:
        def __init__(self):
            self.observed = 0
            self.at_render = []

        def initial_state(self, batch_size):
            return cloud.initial_state(batch_size)

        def observe(self, state, observation):
            self.observed += 1
            return cloud.observe(state, observation)

        def render(self, state, camera):
            self.at_render.append(self.observed)
            return cloud.render(state, camera)

    spy = Spy()
    rows = evaluate_persistence([CheckedModel(spy, "spy")], episodes)
    assert spy.at_render == sorted({row.entry for row in rows})
