from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from embodied_liftwm.config import EnvOptions, EvaluateConfig
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.permanence import changed_worlds, expectation, hidden_changes
from embodied_liftwm.evaluation.permanence.changed_worlds import KINDS, Film, Stage, changes, kinds_of
from embodied_liftwm.evaluation.permanence.quadruplets import WINDOW, differing, hidden_times, quadruplets
from embodied_liftwm.evaluation.permanence.watching import after_beginning, watch
from embodied_liftwm.protocols import View
from embodied_liftwm.tensor_tree import TensorTree

SIZE = 48
SCENES = {"Revisit-S": 2**30 + 1, "MovingOcclusion-S": 2**30}


@pytest.fixture(scope="module")
def stages():
    made = {task: Stage(task, seed, EnvOptions(image_size=SIZE)) for task, seed in SCENES.items()}
    yield made
    for stage in made.values():
        stage.close()


@pytest.fixture(scope="module")
def found(stages):
    return {q.kind: q for task, stage in stages.items() for q in quadruplets(stage, kinds_of(task))}


@dataclass(frozen=True)
class Held(TensorTree):
    """How many frames were observed, which world was recognised last (-1: neither), and the last frame."""

    frames: Tensor  # [B]
    world: Tensor  # [B]
    last: Tensor  # [B, 3, H, W]


class Omniscient:
    """Knows both worlds of a quadruplet by heart, and believes in the one that it recognised last."""

    def __init__(self, quadruplet):
        self.films = quadruplet.a, quadruplet.b
        self.poses = [pose.tobytes() for pose in quadruplet.path.world_from_camera]

    def initial_state(self, batch_size):
        return Held(torch.zeros(batch_size), torch.full((batch_size,), -1.0), torch.zeros(batch_size, 3, SIZE, SIZE))

    def _frame(self, world, t):
        return torch.from_numpy(self.films[int(world)].rgb[int(t)]).permute(2, 0, 1) / 255.0

    def observe(self, state, observation):
        world = state.world.clone()
        for row, rgb in enumerate(observation.rgb):
            fits = [bool(torch.equal(self._frame(w, state.frames[row]), rgb)) for w in (0, 1)]
            world[row] = fits.index(True) if sum(fits) == 1 else world[row]
        return Held(state.frames + 1, world, observation.rgb)

    def surprise(self, state, observation):
        rows = zip(state.world, state.frames, observation.rgb, strict=True)
        return torch.stack([(self._frame(w, t) - rgb).abs().mean() if w >= 0 else torch.tensor(0.5) for w, t, rgb in rows])

    def render(self, state, camera):
        times = [self.poses.index(pose.numpy().tobytes()) for pose in camera.world_from_camera]
        rgb = torch.stack([self._frame(w, t) for w, t in zip(state.world, times, strict=True)])
        depth = torch.stack([torch.from_numpy(self.films[int(w)].depth[t]) for w, t in zip(state.world, times, strict=True)])
        return View(rgb, depth, torch.ones_like(depth))


class Forgetful(Omniscient):
    """Compares a frame with the last one."""

    def surprise(self, state, observation):
        return (state.last - observation.rgb).abs().mean((1, 2, 3))


class FrameByFrame(Omniscient):
    """Judges each frame by itself."""

    def surprise(self, state, observation):
        return observation.rgb.square().mean((1, 2, 3))


class Indifferent(Omniscient):
    def surprise(self, state, observation):
        return torch.ones(len(observation.rgb))


class Gullible(Omniscient):
    """Finds likely what cannot be."""

    def surprise(self, state, observation):
        return -super().surprise(state, observation)


class Stubborn(Omniscient):
    """Never believes in a change."""

    def observe(self, state, observation):
        seen = super().observe(state, observation)
        return replace(seen, world=torch.where(state.world >= 0, state.world, seen.world))


def row_of(model, quadruplet):
    checked = CheckedModel(model(quadruplet), "m")
    ((_, state),) = after_beginning(checked, [quadruplet])
    by_frame = expectation.surprises(checked, quadruplet, state)
    return expectation._row(checked, "Revisit-S", 0, quadruplet, by_frame)


def test_every_kind_is_found(found):
    assert set(found) == set(KINDS)


@pytest.mark.parametrize("task", SCENES)
def test_filming_repeats_the_tour_bit_by_bit_and_leaves_no_trace(stages, task):
    stage = stages[task]
    assert np.array_equal(stage.film(1).rgb, stage.path.rgb)
    with stage.sim.changed(1, place=(0.0, 0.0, 0.5), colour=(1.0, 0.0, 1.0)):
        assert not np.array_equal(stage.film(1).rgb, stage.path.rgb)
    assert np.array_equal(stage.film(1).rgb, stage.path.rgb)


@pytest.mark.parametrize("kind", KINDS)
def test_quadruplets_are_matched_frame_by_frame(found, kind):
    q = found[kind]
    (a, b), (a_then_b, b_then_a) = q.possible(), q.impossible()
    for t in range(len(a.rgb)):
        sources = (a, b) if t < q.entry else (b, a)
        assert np.array_equal(a_then_b.rgb[t], sources[0].rgb[t]) and np.array_equal(b_then_a.rgb[t], sources[1].rgb[t])
    for video in (b, a_then_b, b_then_a):
        assert video.world_from_camera is a.world_from_camera and video.action is a.action and not video.goal.any()
    hidden = slice(q.hidden, q.entry)
    assert q.gap >= 2 and np.array_equal(a.rgb[hidden], b.rgb[hidden])  # no frame tells that anything was spliced
    assert not q.a.mask[hidden].any() and not q.b.mask[hidden].any()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_object_differs(found, kind):
    q = found[kind]
    differs = (q.a.rgb != q.b.rgb).any(-1)
    assert differs.any() and not (differs & ~q.a.mask & ~q.b.mask).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_object_was_seen_before_and_its_place_is_seen_after(found, kind):
    q, enough = found[kind], round(12 * (SIZE / 64) ** 2)
    assert q.a.mask[: q.hidden].sum((1, 2)).max() >= enough
    assert (kind == "vanish") == (not q.b.mask.any())
    assert kind == "vanish" or q.b.mask[: q.hidden].sum((1, 2)).max() >= enough
    assert differing(q.a.rgb, q.b.rgb)[q.entry : q.entry + WINDOW].max() >= enough
    assert differing(q.a.rgb, q.b.rgb)[q.entry] > 0


def test_a_place_behind_a_wall_is_in_another_room_and_the_way_there_is_closed(stages):
    stage = stages["Revisit-S"]
    rng = np.random.default_rng(0)
    places = {o.id: [c["place"] for c in changes(stage, "wall", o.id, rng)] for o in stage.scene.objects}
    assert sum(map(len, places.values()))
    for item in stage.scene.objects:
        for place in places[item.id]:
            assert place[2] == 0 and stage.scene.room_at(np.array(place[:2])) not in (item.room, None)
            line = np.linspace(item.position, place[:2], 200)
            inside = [stage.scene.room_at(point) is None for point in line]
            assert any(inside)  # the straight way leads through a wall


def test_tracks_of_the_two_worlds_meet_in_the_tunnel_and_part_by_opposite_ends(stages):
    stage = stages["MovingOcclusion-S"]
    steps = np.arange(400)
    for own in stage.scene.tracks:
        for change in changes(stage, "tunnel", own.object_id, np.random.default_rng(0)):
            other = change["track"]
            assert (other.speed_m, other.start, other.end, other.covered) == (own.speed_m, own.start, own.end, own.covered)
            sums = own.along(steps) + other.along(steps)
            crossing = np.abs(sums - sum(own.covered)) < 1e-6  # mirror images about the tunnel's middle
            both_in = ~own.is_out(steps) & ~other.is_out(steps)
            assert (crossing & both_in).sum() >= 5


def film(pixels, shown=None):
    """Frames whose first pixels are lit: as many as told. [F, 8, 8]"""
    mask = np.arange(64).reshape(1, 8, 8) < np.array(pixels)[:, None, None]
    seen = mask if shown is None else np.arange(64).reshape(1, 8, 8) < np.array(shown)[:, None, None]
    return Film(np.repeat(mask[..., None], 3, -1).astype(np.uint8), np.ones(mask.shape, np.float32), seen)


def test_hidden_times_foreseen(monkeypatch):
    monkeypatch.setattr(changed_worlds, "SEEN_PX", 12 * 64)  # 12 pixels of 8 x 8
    none = film([0] * 30)

    def times(*pixels, other=none):
        return hidden_times(film([*pixels, *[0] * (30 - len(pixels))]), other, gone=True)

    assert times(0, 12, 3, 0, 0, 0, 0, 0, 5, 20) == [(3, 8)]
    assert times(0, 11, 3, 0, 0, 0, 0, 0, 5, 20) == []  # never quite seen before
    assert times(0, 12, 3, 0, 0, 0, 0, 0, 5, 11) == []  # nor after
    assert times(0, 12, 0, 20) == []  # hidden for one frame
    assert times(12, *[0] * 20, 20) == []  # too near to the end
    assert times(12, 0, 0, 0, 0, 20) == [(1, 5)]
    assert times(12, 0, 0, 0, 0, 20, other=film([0] * 30, [0, 0, 2, *[0] * 27])) == [(3, 5)]  # B shows it in frame 2
    assert hidden_times(film([12, 0, 0, 20, *[0] * 26]), none) == []  # never seen in B, where it should be


@pytest.mark.parametrize("kind", KINDS)
def test_scores_foreseen(found, kind):
    assert row_of(Omniscient, found[kind]).right == row_of(Omniscient, found[kind]).pairs_right == 1.0
    assert row_of(Gullible, found[kind]).right == 0.0
    for model in (Forgetful, FrameByFrame, Indifferent):
        assert row_of(model, found[kind]).right == row_of(model, found[kind]).pairs_right == 0.5


def test_a_scene_is_watched_once_for_all_its_kinds(found):
    given = [found[kind] for kind in KINDS if kind != "tunnel"]
    model = CheckedModel(FrameSum(), "sum")
    together = {q.kind: state for q, state in after_beginning(model, given)}
    for q in given:
        ((_, alone),) = after_beginning(model, [q])
        assert torch.equal(alone.frames, together[q.kind].frames)
        sums = [f.rgb[: q.entry].astype(np.float64).mean((1, 2, 3)).sum() / 255 for f in (q.a, q.b)]
        assert alone.frames.numpy() == pytest.approx(sums, rel=1e-4)


class FrameSum(FrameByFrame):
    """Adds up the brightness of all it saw."""

    def __init__(self):
        pass

    def observe(self, state, observation):
        return replace(state, frames=state.frames + observation.rgb.mean((1, 2, 3)))


def test_summary_counts_scenes():
    row = expectation.ExpectationRow("m", "Revisit-S", 0, 7, "vanish", 1, 3, 9, 20, 1.0, 0.5, 1.0, 1.0, 2.0, 1.0)
    rows = [replace(row, seed=s, right=float(s > 1), kind=k) for s in range(5) for k in ("vanish", "recolour")]
    figures = expectation.summarize(rows, 200, 0)["m"]
    assert figures["all"]["mean"] == 0.6 and figures["all"]["clusters"] == 5 and figures["all"]["count"] == 10
    assert list(figures["kinds"]) == ["vanish", "recolour"] and figures["kinds"]["vanish"]["mean"] == 0.6
    assert figures["kinds"]["vanish"]["high"] < 0.9  # Wilson's interval: each scene once
    assert figures["gaps"]["1-5"]["count"] == 10 and figures["gaps"]["11-50"]["count"] == 0
    shown = expectation.show({"m": figures})
    assert shown[1].categories == ["1-5"]


def test_ties_count_half():
    assert [expectation.more(a, b) for a, b in ((2, 1), (1, 2), (1, 1), (1 + 1e-8, 1), (-3, -2))] == [1.0, 0.0, 0.5, 0.5, 0.0]


def changes_of(model, quadruplet):
    checked = CheckedModel(model(quadruplet), "m")
    ((_, state),) = after_beginning(checked, [quadruplet])
    return hidden_changes.ask(checked, "Revisit-S", 0, quadruplet, state, "cpu")


@pytest.mark.parametrize("kind", ["vanish", "teleport", "wall"])
def test_updates_foreseen(found, kind):
    rows, stubborn = changes_of(Omniscient, found[kind]), changes_of(Stubborn, found[kind])
    assert rows and len(rows) == len(stubborn) and len(rows) % len(hidden_changes.AFTER) == 0
    for row, deaf in zip(rows, stubborn, strict=True):
        believes_b = row.after > 0 or row.frame > found[kind].entry
        assert row.new_share == 1.0 if believes_b else row.old_share == 1.0
        assert deaf.old_share == 1.0 and row.floor == deaf.floor < 0.3
        assert row.after == 0 or row.old_share == row.floor
    figures = hidden_changes.summarize(rows, 100, 0)["m"]
    case = "removed" if kind == "vanish" else rows[0].case
    assert figures[case]["new_share"]["4"]["mean"] == 1.0
    assert len(hidden_changes.show({"m": figures})) == 4


def test_what_is_measured_of_a_task(monkeypatch):
    monkeypatch.setitem(changed_worlds.STEPS, "S", 60)

    class Plain(Indifferent):
        def __init__(self):
            pass

        def observe(self, state, observation):
            return state

        def render(self, state, camera):
            shape = len(camera.world_from_camera), camera.height, camera.width
            return View(torch.full((shape[0], 3, *shape[1:]), 0.5), torch.ones(shape), torch.zeros(shape))

    config = EvaluateConfig()
    models = [CheckedModel(Plain(), name) for name in ("one", "two")]
    rows = watch({"expectation": expectation.QUESTION}, models, "Revisit-S", [2**30 + 3], config)["expectation"]
    assert rows and {row.model for row in rows} == {"one", "two"} and all(row.right == 0.5 for row in rows)
    questions = {"expectation": expectation.QUESTION, "hidden_changes": hidden_changes.QUESTION}
    together = watch(questions, models, "Revisit-S", [2**30 + 3], config)  # a tour watched once gives what it gives alone
    assert together["expectation"] == rows
    assert {row.kind for row in together["hidden_changes"]} <= {"vanish", "teleport", "wall"}


@pytest.mark.parametrize("task", ["Occlusion-S", "Nowhere-S"])
def test_tasks_without_returns_are_refused(task):
    with pytest.raises(UserError, match=f"task {task}.*Revisit-S"):
        watch({"expectation": expectation.QUESTION}, [], task, [2**30], EvaluateConfig())


def test_faults_of_a_model_are_named(found):
    class Mute(Omniscient):
        surprise = None

    class Lost(Omniscient):
        def surprise(self, state, observation):
            return torch.full((len(observation.rgb),), float("nan"))

    class Lengthy(Omniscient):
        def surprise(self, state, observation):
            return torch.zeros(len(observation.rgb), 2)

    for model, words in (
        (Mute, "without surprise"),
        (Lost, "surprise: its output holds NaN"),
        (Lengthy, r"surprise expected \[4\], got \[4, 2\]"),
    ):
        with pytest.raises(UserError, match=words):
            row_of(model, found["vanish"])
