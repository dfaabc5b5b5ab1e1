"""Environments in threads, forked processes and vector environments: the same frames, and a quiet end."""

from __future__ import annotations

import ctypes.util
import gc
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
import pytest

from liftwm_envs import EnvError, rendering
from liftwm_envs.env import Record
from liftwm_envs.wrappers import GuidedTour

STILL = np.zeros(2, np.float32)
ID = "liftwm_envs:liftwm/Revisit-S-v0"


def make(**options: Any) -> gymnasium.Env:
    return gymnasium.make(ID, disable_env_checker=True, **options)


def frames(seed: int, steps: int = 3) -> list[np.ndarray]:
    """What a new environment shows, made, drawn and closed in the calling thread."""
    env = make(truth=True)
    found = [env.reset(seed=seed)[0]["rgb"]]
    for _ in range(steps):
        obs, *_, info = env.step(np.array([0.5, 1.0], np.float32))
        found += [obs["rgb"], info["truth"]["depth"], info["truth"]["segmentation"]]
    env.close()
    return found


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_an_environment_goes_from_thread_to_thread() -> None:
    expected, env = frames(5), make(truth=True)
    found: list[np.ndarray] = []
    calls = [lambda: found.append(env.reset(seed=5)[0]["rgb"])]

    def step() -> None:
        obs, *_, info = env.step(np.array([0.5, 1.0], np.float32))
        found.extend([obs["rgb"], info["truth"]["depth"], info["truth"]["segmentation"]])

    for call in [*calls, step, step, step, env.close, env.close]:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    assert same(found, expected)
    with pytest.raises(EnvError, match="not running"):
        env.unwrapped.sim  # noqa: B018


def test_several_threads_draw_at_once_and_what_fails_in_one_leaves_the_others() -> None:
    expected = [frames(seed) for seed in range(4)]

    def fail() -> None:
        env = make()
        env.reset(seed=1)
        env.step(np.array([np.nan, 0.0], np.float32))

    with ThreadPoolExecutor(5) as pool:
        found = [pool.submit(frames, seed) for seed in (0, 1, 2, 3, 0, 1, 2, 3)]
        failed = pool.submit(fail)
        assert all(same(future.result(), expected[k % 4]) for k, future in enumerate(found))
        with pytest.raises(EnvError, match="must be in"):
            failed.result()
    assert same(frames(2), expected[2])


def test_what_is_left_to_the_garbage_collector_is_used_again() -> None:
    def leave() -> None:
        for seed in range(6):
            env = make()
            env.reset(seed=seed)
            env.myself = env  # type: ignore[attr-defined]  # a cycle: collected later, in whatever thread
        gc.collect()

    gc.collect()
    with rendering.drawing():
        pass
    before = len(rendering._targets)
    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()
    gc.collect()
    frames(7)
    assert len(rendering._targets) <= before + 1 + rendering._MAX_SPARE
    assert same(frames(0), frames(0))


def _child(env: gymnasium.Env, queue: Any) -> None:
    inherited = env.step(STILL)[0]["rgb"]
    env.close()
    queue.put((inherited, frames(5)))


def test_a_forked_process_draws_what_its_parent_would() -> None:
    """Its own environments, and one that was made and drawn before the fork."""
    expected, env = frames(5), make()
    env.reset(seed=6)
    again = make()
    again.reset(seed=6)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(lambda: [frames(seed % 4) for seed in range(8)])  # forks while another thread draws
        children = [fork.Process(target=_child, args=(env, queue)) for _ in range(2)]
        for child in children:
            child.start()
        after = again.step(STILL)[0]["rgb"]
        for inherited, own in (queue.get(timeout=60) for _ in children):
            assert np.array_equal(inherited, after)
            assert same(own, expected)
        drawn.result()
    for child in children:
        child.join(timeout=30)
        assert child.exitcode == 0
    assert np.array_equal(env.step(STILL)[0]["rgb"], after)


ENDS = {
    "left open in a thread": """
def work():
    env = make(); env.reset(seed=1); kept.append(env); env.step(still)
thread = threading.Thread(target=work); thread.start(); thread.join()
kept[0].step(still)
""",
    "closed twice, and by another": """
env = make(); env.reset(seed=1)
threading.Thread(target=env.close).start()
env.close(); env.close()
""",
    "a daemon that goes on stepping": """
def work():
    env = make(); env.reset(seed=1)
    while True:
        env.step(still); ready.set()
ready = threading.Event()
threading.Thread(target=work, daemon=True).start(); ready.wait(60)
kept.append(make()); kept[0].reset(seed=2)
""",
    "a forked child ends as programs do": """
import os, sys
env = make(); env.reset(seed=1)
for draws in (False, True):
    child = os.fork()
    if not child:
        if draws:
            env.step(still)
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
env.step(still)
""",
    "an error in a thread that was caught": """
def work():
    env = make(); env.reset(seed=1); kept.append(env); env.step([9, 9])
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(1) as pool:
    assert pool.submit(work).exception()
""",
}


@pytest.mark.parametrize("renderer", ["egl", "osmesa"])
@pytest.mark.parametrize("name", list(ENDS))
def test_the_process_ends_without_a_traceback(name: str, renderer: str) -> None:
    if renderer == "osmesa" and not ctypes.util.find_library("OSMesa"):
        pytest.skip("no OSMesa here")
    if renderer == "osmesa" and "forked" in name:
        pytest.skip("OSMesa itself waits at its end for threads that a forked child has not")
    begin = "import threading, gymnasium, numpy as np, liftwm_envs\nkept, still = [], np.zeros(2, np.float32)\n"
    begin += "make = lambda: gymnasium.make('liftwm/Revisit-S-v0', disable_env_checker=True)\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": renderer}
    done = subprocess.run(
        [sys.executable, "-c", begin + ENDS[name]], capture_output=True, text=True, timeout=120, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("mode", "context"), [("sync", None), ("async", None), ("async", "spawn")])
def test_vector_environments_hand_records_on(mode: str, context: str | None) -> None:
    """Scenes of 4 and 8 objects, a tour each, and resets that come at different times."""
    options = {"vector_kwargs": {"context": context}} if context else {}
    envs = gymnasium.make_vec(
        ID, num_envs=2, vectorization_mode=mode, wrappers=[GuidedTour], truth=True, max_steps=64, image_size=32, **options
    )
    try:
        obs, info = envs.reset(seed=[3, 4])
        assert [len(truth["visible_pixels"]) for truth in info["truth"]] == [4, 8]
        for k, seed in enumerate((3, 4)):
            alone = GuidedTour(make(truth=True, max_steps=64, image_size=32))
            expected, told = alone.reset(seed=seed)
            assert info["truth"][k] == told["truth"] and info["tour"][k] == told["tour"]
            assert np.array_equal(obs["rgb"][k], expected["rgb"])
            assert isinstance(told["truth"], Record) and told["truth"] != told["tour"]
            alone.close()
        toured = np.zeros(2, int)
        for _ in range(8):
            *_, info = envs.step(np.zeros((2, 2), np.float32))
            assert all(truth["segmentation"].shape == (32, 32) for truth in info["truth"])
            toured += info.get("_tour", np.zeros(2, bool))
        assert (toured >= 1).all()  # truncated, and begun again
    finally:
        envs.close()
