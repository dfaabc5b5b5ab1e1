"""Frozen manifests: what they hold, and that a changed byte is found and named."""

import dataclasses
import hashlib
import json
import shutil

import gymnasium
import numpy as np
import pytest

from embodied_liftwm import cli
from embodied_liftwm.config import EVAL_SEED_OFFSET, EnvOptions
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.navigation.guided import Guide
from embodied_liftwm.evaluation.permanence.making import FIRST_SEED, make_manifest
from embodied_liftwm.evaluation.permanence.manifest import FOLDER, SUMS, known_tasks, load_manifest, write_manifest

SEED = EVAL_SEED_OFFSET + 4321  # for development


@pytest.fixture(scope="module")
def guide():
    made = Guide("Revisit-S", EnvOptions(image_size=32))
    yield made
    made.close()


@pytest.fixture(scope="module")
def guided(guide):
    return guide.record(SEED)


@pytest.fixture(scope="module")
def frozen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifests")
    write_manifest(make_manifest("Revisit-S", EnvOptions(image_size=32), 2, SEED), folder)
    return folder


@pytest.fixture
def copied(frozen, tmp_path):
    shutil.copytree(frozen, tmp_path, dirs_exist_ok=True)
    return tmp_path / "permanence-Revisit-S.json"


@pytest.mark.parametrize("task", known_tasks())
def test_what_ships_is_whole(task):
    manifest = load_manifest(task)
    text = (FOLDER / f"permanence-{task}.json").read_bytes()
    assert f"{hashlib.sha256(text).hexdigest()}  permanence-{task}.json" in (FOLDER / SUMS).read_text().splitlines()
    assert len(manifest.episodes) >= 100 and len(set(manifest.seeds)) == len(manifest.seeds)
    assert manifest.seeds == sorted(manifest.seeds) and manifest.seeds[0] >= FIRST_SEED == 2**30 + 2**25
    assert not {entry.seed for entry in manifest.removed} & set(manifest.seeds)
    tried = sorted([*manifest.seeds, *(entry.seed for entry in manifest.removed)])
    assert tried == list(range(FIRST_SEED, FIRST_SEED + len(tried)))  # none was left out in silence


def test_the_tasks_of_the_issue_ship():
    assert {"Revisit-S", "Revisit-M", "Occlusion-S", "Occlusion-M", "MovingOcclusion-S"} <= set(known_tasks())
    assert {"ShellGame-S", "Search-S"} <= set(known_tasks())


def test_a_recorded_tour_is_the_one_that_agents_are_given(guided):
    import liftwm_envs  # noqa: F401
    from liftwm_envs.wrappers import GuidedTour

    env = GuidedTour(gymnasium.make("liftwm/Revisit-S-v0", image_size=32))
    _, info = env.reset(seed=SEED)
    env.close()
    frames = slice(0, guided.call + 1)
    assert np.array_equal(info["tour"]["rgb"], guided.episode.rgb[frames])
    assert np.array_equal(info["tour"]["world_from_camera"].reshape(-1, 4, 4), guided.episode.world_from_camera[frames])
    assert np.array_equal(info["tour"]["goal"], guided.episode.goal[frames])
    assert np.array_equal(info["tour"]["action"][1:], guided.episode.action[: guided.call])
    assert info["goal_object"] == guided.goal_object
    assert guided.episode.validate() and guided.episode.truth.visible_pixels[guided.call, guided.goal_object - 1] < 3


def test_a_fingerprint_holds_the_scene_and_the_tour_and_no_pixels(guided):
    def of(**changed):
        truth = dataclasses.replace(guided.episode.truth, **changed)
        return dataclasses.replace(guided, episode=dataclasses.replace(guided.episode, truth=truth)).fingerprint()

    poses = guided.episode.truth.world_from_camera
    moved, shaken, after = poses.copy(), poses.copy(), poses.copy()
    moved[3, 0, 3] += 0.002
    shaken[3, 0, 3] += 1e-7
    after[guided.call + 1 :] += 1.0
    scene = json.loads(json.dumps(guided.episode.truth.scene))
    scene["objects"][0]["position"][0] += 0.002
    assert of(scene=json.loads(json.dumps(guided.episode.truth.scene))) == guided.fingerprint()
    assert of(world_from_camera=shaken) == of(world_from_camera=after) == guided.fingerprint()
    assert of(depth=guided.episode.truth.depth * 0) == guided.fingerprint()
    assert len({guided.fingerprint(), of(world_from_camera=moved), of(scene=scene)}) == 3


def test_what_was_made_verifies_and_another_scene_does_not(frozen, guided):
    manifest = load_manifest("Revisit-S", frozen)
    manifest.verify(guided)
    other = dataclasses.replace(guided, seed=SEED + 1)
    with pytest.raises(UserError, match=f"Revisit-S, seed {SEED + 1}: its scene and tour hash to .*another version"):
        manifest.verify(other)


def test_the_command_makes_the_same_bytes_again(frozen, tmp_path, capsys):
    words = ["env=Revisit-S", "episodes=2", f"first_seed={SEED}", "env_options.image_size=32", f"out={tmp_path}"]
    assert cli.main(["manifest", "make", *words]) == 0
    assert "2 episodes" in capsys.readouterr().out
    for name in ("permanence-Revisit-S.json", SUMS):
        assert (tmp_path / name).read_bytes() == (frozen / name).read_bytes()
    assert cli.main(["manifest", "check", f"out={tmp_path}"]) == 0
    assert "2 episodes; removed: none" in capsys.readouterr().out
    for words, line in (
        (["make", "env=Revist-S"], "unknown env 'Revist-S': did you mean 'Revisit-S'?"),
        (["make"], "manifest make: name what to freeze, env=Revisit-S"),
        (["check", f"out={tmp_path}/none"], "manifest check: no manifest in"),
        (["freeze", "env=Revisit-S"], "manifest freeze: expected make or check"),
    ):
        assert cli.main(["manifest", *words]) == 2
        assert line in capsys.readouterr().err


def test_every_changed_byte_is_refused(copied):
    text = copied.read_bytes()
    for at in range(0, len(text), 7):
        copied.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        with pytest.raises(UserError, match="permanence-Revisit-S.json"):
            load_manifest("Revisit-S", copied.parent)


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        (f'"seed": {SEED + 1}', f'"seed": {SEED + 3}', rf"entry 1 of 'episodes' \(seed {SEED + 3}\)"),
        ('"image_size": 32', '"image_size": 64', "field 'options'"),
        ('"removed": []', '"remove": []', "lacks field 'removed'|unknown field 'remove'"),
        ('"removed": []', '"removed": ]', "line 11, column"),
        ('"removed": []', '"removed":  []', "line 11, column"),
        ("Revisit", "Revi\xefsit", "byte|field 'env'"),
    ],
)
def test_a_change_is_named(copied, old, new, where):
    copied.write_bytes(copied.read_text().replace(old, new, 1).encode("latin-1"))
    with pytest.raises(UserError, match=where) as caught:
        load_manifest("Revisit-S", copied.parent)
    assert "\n" not in str(caught.value) and str(copied) in str(caught.value)


def test_a_manifest_that_was_replaced_whole_is_refused(copied):
    other = dataclasses.replace(load_manifest("Revisit-S", copied.parent), first_seed=SEED - 1)
    copied.write_text(other.text())
    with pytest.raises(UserError, match="is not the file that SHA256SUMS beside it lists"):
        load_manifest("Revisit-S", copied.parent)


def test_a_task_without_manifest_says_which_have_one(frozen):
    with pytest.raises(UserError, match=r"task Search-S has no manifest in .*; these have: Revisit-S"):
        load_manifest("Search-S", frozen)


def test_sums_that_are_no_text_and_a_bottomless_manifest_are_one_line(copied):
    sums = copied.parent / SUMS
    good = sums.read_bytes()
    sums.write_bytes(good.replace(b"permanence", b"\xff\xfe\x00"))
    with pytest.raises(UserError, match=f"{SUMS} cannot be read: byte 66 is no UTF-8"):
        load_manifest("Revisit-S", copied.parent)
    sums.write_bytes(good)
    for content in ("[" * 200_000, '{"episodes":' * 200_000):
        copied.write_text(content)
        with pytest.raises(UserError, match="permanence-Revisit-S.json cannot be read: it is nested too deep"):
            load_manifest("Revisit-S", copied.parent)
