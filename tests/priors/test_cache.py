"""What is read from a cache is what was written, of the very same episode, or it is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from embodied_liftwm.data import TrainingReader
from embodied_liftwm.data.storage import write_episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.priors.cache import PriorCache, clip_of, complete_cache, create_cache
from embodied_liftwm.priors.contract import (
    DepthMaps,
    Matches,
    NormalMaps,
    NovelViews,
    PointMaps,
    PriorOptions,
    PseudoObservations,
)
from tests.priors import tiny_prior
from tests.priors.datasets import SIZE, STEPS, write_rooms
from tests.toy_room import episode as room

KINDS = ("depth", "normals", "points", "matches", "views")
FIRST, SECOND = "0123456789abcdef", "fedcba9876543210"


def observations(seed: int = 0, maps: int = 4, matches: int = 7) -> PseudoObservations:
    """Random ones of every kind; depths and points from microns to 100 km."""
    draw = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw)

    def number(*shape: int) -> Tensor:
        return torch.randint(0, STEPS + 1, shape, generator=draw)

    image = (maps, SIZE, SIZE)
    metres = 10 ** (11 * uniform(*image) - 6)
    signs = torch.where(uniform(*image, 3) < 0.5, -1.0, 1.0)
    normals = torch.nn.functional.normalize(uniform(maps, 3, SIZE, SIZE) - 0.5, dim=1)
    return PseudoObservations(
        depth=DepthMaps(metres, uniform(*image), number(maps), "scale_free"),
        normals=NormalMaps(normals, uniform(*image), number(maps)),
        points=PointMaps(signs * metres[..., None] * uniform(*image, 3), uniform(*image), number(maps), number(maps), "metric"),
        matches=Matches(SIZE * uniform(matches, 2, 2), uniform(matches), number(matches, 2)),
        views=NovelViews(uniform(maps, 3, SIZE, SIZE), uniform(*image), 9 * uniform(maps, 4, 4), number(maps)),
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_rooms(tmp_path / "data", 0, 1, 2)


def make(dataset: Path, fingerprint: str = FIRST, name: str = "mvs") -> PriorCache:
    return create_cache(TrainingReader(dataset), name, fingerprint, PriorOptions(), "MIT")


def fill(cache: PriorCache) -> PriorCache:
    for episode in cache.missing():
        cache.write(episode, observations(episode))
    return cache


def same(first: PseudoObservations, second: PseudoObservations) -> bool:
    mine, theirs = first.given(), second.given()
    return mine.keys() == theirs.keys() and all(
        torch.equal(a, b) if isinstance(a := getattr(mine[kind], field.name), Tensor) else a == b
        for kind in mine
        for field in fields(mine[kind])
        for b in [getattr(theirs[kind], field.name)]
    )


def test_what_is_read_is_what_was_written(dataset: Path) -> None:
    written = observations()
    make(dataset).write(1, written)
    read = PriorCache(dataset / "priors" / f"mvs-{FIRST}").read(1)
    for kind in KINDS:
        mine, theirs = getattr(written, kind), getattr(read, kind)
        for field in fields(mine):
            a, b = getattr(mine, field.name), getattr(theirs, field.name)
            if not isinstance(a, Tensor):
                assert a == b
                continue
            assert (a.dtype, a.shape, b.device.type) == (b.dtype, b.shape, "cpu")
            if (kind, field.name) in (("depth", "values"), ("points", "points")):
                far = a.abs() > a.abs().max() * 2.0**-28
                assert (((a - b) / a).abs()[far] <= 2.0**-11).all()  # below 1e-3
                assert ((a - b).abs()[~far] <= a.abs().max() * 2.0**-38).all()
            elif field.name == "confidence" or (kind, field.name) in (("normals", "values"), ("views", "rgb")):
                assert ((a - b).abs() <= 2.0**-12).all()
            else:
                assert torch.equal(a, b), (kind, field.name)


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-3, 20.0, 1e30])
def test_depths_of_every_unit_keep_their_digits(dataset: Path, scale: float) -> None:
    depth = observations().depth
    values = scale * torch.linspace(0.1, 1.0, SIZE * SIZE).reshape(1, SIZE, SIZE).expand(4, -1, -1).contiguous()
    cache = make(dataset)
    cache.write(0, PseudoObservations(depth=replace(depth, values=values)))
    torch.testing.assert_close(cache.read(0).depth.values, values, rtol=2.0**-11, atol=0.0)


def test_confidence_of_none_and_of_certainty_is_exact(dataset: Path) -> None:
    matches = observations().matches
    certain = (torch.arange(7) % 2).float()
    cache = make(dataset)
    cache.write(0, PseudoObservations(matches=replace(matches, confidence=certain)))
    assert torch.equal(cache.read(0).matches.confidence, certain)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_prior_does_not_give_stays_none(dataset: Path, kind: str) -> None:
    cache = make(dataset)
    cache.write(0, PseudoObservations(**{kind: getattr(observations(), kind)}))
    assert set(cache.read(0).given()) == {kind}


def test_kinds_may_share_memory_and_be_views(dataset: Path) -> None:
    found, frames = observations(), torch.arange(4)
    assert found.depth and found.normals
    turned = found.normals.values.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).requires_grad_()
    normals = replace(found.normals, values=turned, confidence=found.depth.confidence, frames=frames)
    cache = make(dataset)
    cache.write(0, PseudoObservations(depth=replace(found.depth, frames=frames[:]), normals=normals))
    read = cache.read(0)
    assert read.depth and read.normals
    torch.testing.assert_close(read.normals.values, turned.detach(), rtol=2.0**-11, atol=2.0**-24)
    assert torch.equal(read.depth.frames, frames) and torch.equal(read.normals.frames, frames)


def test_a_prior_may_say_nothing(dataset: Path) -> None:
    cache = make(dataset)
    cache.write(0, PseudoObservations())
    cache.write(1, observations(maps=0, matches=0))
    assert 0 in cache and not cache.read(0).given()
    assert set(cache.read(1).given()) == set(KINDS) and len(cache.read(1).matches.pixels) == 0


def test_files_are_half_as_large_where_it_loses_nothing(dataset: Path) -> None:
    cache = make(dataset)
    cache.write(0, PseudoObservations(depth=observations(maps=6).depth))
    assert cache.path(0).stat().st_size < 6 * SIZE * SIZE * (2 + 2) + 1000


def test_a_dataset_that_has_grown_is_continued(tmp_path: Path) -> None:
    folder = write_rooms(tmp_path / "data", 1, 2)
    fill(make(folder))
    write_rooms(folder, 0, 3)  # positions move: what was 0 and 1 is 1 and 2
    cache = make(folder)
    assert cache.missing() == [0, 3]
    fill(cache)
    assert not make(folder).missing()
    reader = TrainingReader(folder)
    assert reader.indices.tolist() == [0, 1, 2, 3] and reader.episode_lengths.tolist() == [STEPS + i for i in range(4)]
    old = make(folder)
    assert torch.equal(old.read(2).matches.pixels, observations(1).matches.pixels)


@pytest.mark.parametrize("array", ["rgb", "world_from_camera", "intrinsics"])
def test_an_episode_that_has_changed_is_noticed(dataset: Path, array: str) -> None:
    fill(make(dataset))
    episode = room(1, STEPS + 1, SIZE)
    changed = getattr(episode, array).copy()
    changed[(0, 0, 3) if array == "world_from_camera" else (0, 0)] += 1
    write_episode(dataset, 1, replace(episode, **{array: changed}))
    cache = make(dataset)
    assert cache.missing() == [1]
    with pytest.raises(UserError, match="episode-00000001.safetensors is of another episode, or of this one before it"):
        cache.read(1)
    with pytest.raises(UserError, match=r"covers 2 of the 3 episodes of .*: run `liftwm priors run name=mvs data="):
        complete_cache(dataset, "mvs")


def test_what_no_prior_is_shown_may_change(dataset: Path) -> None:
    fill(make(dataset))
    episode = room(1, STEPS + 1, SIZE)
    write_episode(dataset, 1, replace(episode, reward=episode.reward + 1))
    assert not make(dataset).missing()


def test_a_file_of_another_episode_is_refused(dataset: Path) -> None:
    cache = fill(make(dataset))
    cache.path(1).write_bytes(cache.path(0).read_bytes())
    assert 1 not in cache
    with pytest.raises(UserError, match="is of another episode"):
        cache.read(1)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


def foreign(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(3)}, path)


def newer(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({}, path, {"liftwm": json.dumps({"layout": 99})})


@pytest.mark.parametrize("spoil", [cut, cut_short, foreign, newer, lambda path: path.write_text("a text")])
def test_a_damaged_file_is_named_and_counts_as_missing(dataset: Path, spoil: Callable[[Path], None]) -> None:
    cache = fill(make(dataset))
    spoil(cache.path(2))
    assert cache.missing() == [2]
    with pytest.raises(UserError, match=r"episode-00000002.safetensors is damaged or foreign .*: run `liftwm priors run"):
        cache.read(2)


def test_what_is_not_there(dataset: Path, tmp_path: Path) -> None:
    cache = make(dataset)
    assert 3 not in cache and -1 not in cache
    with pytest.raises(UserError, match="no episode 3 in .*: it holds 3"):
        cache.read(3)
    with pytest.raises(UserError, match=r"episode-00000000.safetensors is not there yet: run `liftwm priors run name=mvs"):
        cache.read(0)
    with pytest.raises(UserError, match=r"prior.json is missing"):
        PriorCache(dataset / "priors" / f"disk-{FIRST}")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"layout": 1, "name": "mvs"}', '{"layout": 9, "name": "a", "fingerprint": "b"}']
)
def test_a_damaged_description_is_named(dataset: Path, text: str) -> None:
    folder = make(dataset).folder
    (folder / "prior.json").write_text(text)
    with pytest.raises(UserError, match=r"prior.json (is|cannot be read).* remove"):
        PriorCache(folder)


def test_the_description_says_whose_it_is(dataset: Path) -> None:
    options = PriorOptions(weights="somewhere", seed=3)
    cache = create_cache(TrainingReader(dataset), "my_package:make_prior", FIRST, options, "MIT")
    assert cache.folder.name == f"my_package.make_prior-{FIRST}"
    about = json.loads((cache.folder / "prior.json").read_text())
    assert (about["name"], about["fingerprint"], about["licence"]) == ("my_package:make_prior", FIRST, "MIT")
    assert about["options"]["weights"] == "somewhere" and about["options"]["seed"] == 3
    assert complete_cache(dataset, "my_package:make_prior").folder == fill(cache).folder if not cache.missing() else True


def test_the_complete_cache_is_found(dataset: Path) -> None:
    with pytest.raises(UserError, match=r"prior mvs has not observed .*: run `liftwm priors run name=mvs data="):
        complete_cache(dataset, "mvs")
    make(dataset, SECOND).write(0, observations())
    with pytest.raises(UserError, match="prior mvs covers 1 of the 3 episodes"):
        complete_cache(dataset, "mvs")
    first = fill(make(dataset))
    assert complete_cache(dataset, "mvs").folder == first.folder
    second = fill(make(dataset, SECOND))
    with pytest.raises(UserError, match=f"name one of mvs-{FIRST}, mvs-{SECOND}"):
        complete_cache(dataset, "mvs")
    assert complete_cache(dataset, f"mvs-{SECOND}").folder == second.folder
    with pytest.raises(UserError, match="no prior 'msv': did you mean mvs"):
        complete_cache(dataset, "msv")
    fill(make(dataset, name="my_package:make_prior"))
    assert complete_cache(dataset, "my_package:make_prior").folder.name == f"my_package.make_prior-{FIRST}"


def other(kind: str, **changes: object) -> PseudoObservations:
    return PseudoObservations(**{kind: replace(getattr(observations(), kind), **changes)})


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (other("depth", values=torch.zeros(4, SIZE, 9)), "depth.values: expected [4, 16, 16] float32 on cpu, got [4, 16, 9]"),
        (other("depth", values=torch.zeros(4, SIZE, SIZE).double()), "got [4, 16, 16] float64"),
        (other("depth", confidence=torch.zeros(3, SIZE, SIZE)), "depth.confidence: expected [4, 16, 16]"),
        (other("depth", values=torch.full((4, SIZE, SIZE), torch.nan)), "depth.values: holds NaN"),
        (other("depth", convention="feet"), "depth.convention: expected metric | scale_free | affine_inverse, got feet"),
        (other("points", convention="affine_inverse"), "points.convention: expected metric | scale_free"),
        (other("matches", confidence=torch.full((7,), 1.5)), "matches.confidence: expected numbers in [0, 1], got 1.5 to 1.5"),
        (other("views", rgb=torch.full((4, 3, SIZE, SIZE), -1.0)), "views.rgb: expected numbers in [0, 1]"),
        (other("normals", frames=torch.full((4,), STEPS + 1)), "normals.frames: expected frames 0 to 5, got 6"),
        (other("points", references=torch.full((4,), -1)), "points.references: expected frames 0 to 5, got -1"),
        (other("matches", frames=torch.zeros(7, 2)), "matches.frames: expected [7, 2] int64"),
        (other("matches", pixels=None), "matches.pixels: expected a tensor, got NoneType"),
        (PseudoObservations(depth=observations().views), "depth: expected DepthMaps, got NovelViews"),
        ({"depth": 1}, "expected PseudoObservations, got dict"),
    ],
)
def test_what_breaks_the_contract_is_not_stored(dataset: Path, found: PseudoObservations, line: str) -> None:
    cache = make(dataset)
    with pytest.raises(UserError) as told:
        cache.write(0, found)
    assert str(told.value).startswith("prior mvs, episode 0: ") and line in str(told.value)
    assert 0 not in cache


def test_one_process_writes_at_a_time(dataset: Path, hold: Callable[[Path], subprocess.Popen[str]]) -> None:
    cache = make(dataset)
    partial = cache.folder / ".partial-99999999-episode-00000000.safetensors"
    partial.write_text("half")
    other_one = hold(cache.folder)
    with pytest.raises(UserError, match="another process"), cache.writing():
        pass
    assert partial.exists()
    other_one.kill()
    other_one.wait()
    with cache.writing():
        assert not partial.exists()


def test_a_second_writer_changes_nothing(dataset: Path) -> None:
    cache = fill(make(dataset))
    before = cache.path(0).read_bytes()
    cache.write(0, observations(0))
    assert cache.path(0).read_bytes() == before
    assert same(cache.read(0), make(dataset).read(0))


def test_a_cache_that_bears_a_former_name_is_read(tmp_path: Path) -> None:
    data = write_rooms(tmp_path / "data", 0)
    reader = TrainingReader(data)
    cache = create_cache(reader, "house_depth", "0" * 16, PriorOptions(), "MIT")
    cache.write(0, tiny_prior.make_prior(PriorOptions()).observe(clip_of(reader, 0)))
    found = complete_cache(data, "inhouse_depth")
    assert found.folder == cache.folder and found.about["name"] == "inhouse_depth"
    assert create_cache(reader, "inhouse_depth", "0" * 16, PriorOptions(), "MIT").folder == cache.folder
