"""Record one episode of any environment under any policy, as a pure function of its seed."""

from __future__ import annotations

from collections.abc import Callable

import gymnasium as gym

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.recorder import Recorder
from liftwm_envs.actions import ActionCodec, Policy

PROGRESS_FRAMES = 32


def record_episode(
    env: gym.Env,
    policy: Callable[[gym.Env], Policy],
    seed: int,
    steps: int,
    on_ready: Callable[[], None] = lambda: None,
    on_frames: Callable[[int], None] = lambda frames: None,
) -> Episode:
    """Run one episode.

    Args:
        env: as `liftwm_envs.contract` has it; reset with `seed` here.
        policy: makes the policy once the environment stands reset, as it may look at the scene.
        seed: of the environment; the policy has its own from the caller.
        steps: actions at most; an episode cut by this limit is marked truncated.
        on_ready: called once the environment stands reset, before the first step.
        on_frames: told how many frames were added, now and then.

    Returns:
        An episode whose meta holds what happened (seed, success, return, call step).

    Raises:
        UserError: frames unlike those before, or what no episode can hold.
        EnvError: no image, no camera, the action space is neither Box nor Discrete, or the policy's choice is none of it.
    """
    obs, info = env.reset(seed=seed)
    codec, recorder = ActionCodec(getattr(env, "action_space", None)), Recorder(env, steps)
    recorder.add(obs, info)
    actor = policy(env)
    actor.reset()
    on_ready()
    for step in range(steps):
        action = actor.act(obs, info)
        obs, reward, terminated, truncated, info = env.step(action)
        cut = step == steps - 1 and not terminated
        numbers = codec.encode(action) if isinstance(codec.space, gym.spaces.Discrete) else action
        recorder.add(obs, info, numbers, reward, terminated, truncated or cut)
        if recorder.frames % PROGRESS_FRAMES == 0:
            on_frames(PROGRESS_FRAMES)
        if terminated or truncated:
            break
    on_frames(recorder.frames % PROGRESS_FRAMES)
    return recorder.finish({"seed": seed})
