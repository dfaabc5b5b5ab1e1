"""Record one episode of any environment under any policy, as a pure function of its seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.recorder import CameraSource, Recorder
from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import users_fault
from liftwm_envs.actions import ActionCodec, Policy

PROGRESS_FRAMES = 32
_STEPPED = ("obs", "reward", "terminated", "truncated", "info")


def record_episode(
    env: gym.Env,
    camera: CameraSource | None,
    policy: Callable[[gym.Env], Policy],
    seed: int,
    steps: int,
    on_ready: Callable[[], None] = lambda: None,
    on_frames: Callable[[int], None] = lambda frames: None,
) -> Episode:
    """Run one episode.

    Args:
        env: reset with `seed` here.
        camera: where the camera is, if the observation does not say.
        policy: makes the policy once the environment stands reset, as it may look at the scene.
        seed: of the environment; the policy has its own from the caller.
        steps: actions at most; an episode cut by this limit is marked truncated.
        on_ready: called once the environment stands reset, before the first step.
        on_frames: told how many frames were added, now and then.

    Returns:
        An episode whose meta holds what happened (seed, success, return, call step).

    Raises:
        UserError: the observation holds no image or no camera.
        EnvError: the action space is neither Box nor Discrete, or the policy's choice is none of it.
    """
    obs, info = ask(env, "reset", ("obs", "info"), seed=seed)
    codec, recorder = ActionCodec(getattr(env, "action_space", None)), Recorder(env, camera, steps)
    recorder.add(obs, info)
    actor = policy(env)
    actor.reset()
    on_ready()
    for step in range(steps):
        action = actor.act(obs, info)
        obs, reward, terminated, truncated, info = ask(env, "step", _STEPPED, action)
        cut = step == steps - 1 and not terminated
        numbers = codec.encode(action) if isinstance(codec.space, gym.spaces.Discrete) else action
        recorder.add(obs, info, numbers, reward, terminated, truncated or cut)
        if recorder.frames % PROGRESS_FRAMES == 0:
            on_frames(PROGRESS_FRAMES)
        if terminated or truncated:
            break
    on_frames(recorder.frames % PROGRESS_FRAMES)
    return recorder.finish({"seed": seed})


def ask(env: gym.Env, method: str, wanted: Sequence[str], *arguments: Any, **named: Any) -> tuple[Any, ...]:
    """What `reset` or `step` of anyone's environment returns.

    Raises:
        UserError: it takes or gives what it does not in Gymnasium's interface, as environments of older ones do.
    """
    given = ", ".join([*("action" for _ in arguments), *(f"{name}=" for name in named)])
    rule = f"expected {method}({given}) -> ({', '.join(wanted)}), as gymnasium.Env has it"
    try:
        made = getattr(env, method)(*arguments, **named)
    except TypeError as error:
        if f"{method}() " not in str(error) or users_fault(error):
            raise
        raise UserError(f"{error}: {rule}") from error
    if not isinstance(made, tuple) or len(made) != len(wanted) or not isinstance(made[-1], dict):
        parts = ", ".join(type(part).__name__ for part in made) if isinstance(made, tuple) else type(made).__name__
        raise UserError(f"{method} of {type(env.unwrapped).__name__} returned ({parts}): {rule} with info a dict")
    return made
