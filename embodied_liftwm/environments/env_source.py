"""What the name of an environment means, and how it is built.

    Revisit-S                   ours, with `EnvOptions`
    liftwm/Revisit-S-v0, ...    any Gymnasium id
    miniworld:FourRooms, ...    other people's worlds that `liftwm_envs.adapters` knows
    my_package:make_env         a function of yours that returns a `gymnasium.Env`, or a pair of one and a `CameraSource`

Whatever is none of ours comes as a `liftwm_envs.contract.ContractEnv`: nobody else knows of camera sources.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import gymnasium as gym

from embodied_liftwm import __version__
from embodied_liftwm.config import EnvOptions
from embodied_liftwm.environments.users_policy import UsersPolicy
from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import call_function, find_function, import_named, is_function_name, users_code

OURS = "liftwm/"
CAMERA = ("rgb", "intrinsics", "world_from_camera")
"""What the observation of an environment holds that needs no camera source."""
PAGE = "docs/your_environment.md"


class Task(Protocol):
    """What the configurations of judging and of training say of a task; all but the first matters where it is none of ours."""

    @property
    def env_options(self) -> EnvOptions: ...
    @property
    def tour(self) -> str: ...  # who walks through a world that gives no tour: `wander`, or `my_policy:make_policy`
    @property
    def tour_steps(self) -> int: ...
    @property
    def max_steps(self) -> int: ...  # after which an episode is over


@dataclass(frozen=True)
class EnvSource:
    """A named environment that exists; `make` builds it. Picklable, so that workers build their own."""

    name: str  # as the user wrote it
    gym_id: str = ""  # id to give to gymnasium.make, once
    module: str = "liftwm_envs"  # this was imported, which registers it, or else
    factory: str = ""  # module:function, or else
    adapter: str = ""  # what liftwm_envs.adapters.make takes

    @property
    def ours(self) -> bool:
        """Whether it is one of liftwm_envs, with its options, truth and scripted policies."""
        return self.gym_id.startswith(OURS)

    def options(self, asked: EnvOptions) -> dict[str, Any]:
        """The options that it is built with: all of ours, the size of frames for adapters, none for others.

        Raises:
            UserError: others are set than it takes.
        """
        if self.ours:
            return asked.keywords()
        left = dataclasses.replace(asked, image_size=EnvOptions().image_size) if self.adapter else asked
        if left != EnvOptions():
            takes = "takes image_size alone" if self.adapter else "takes none, set them in your make_env"
            raise UserError(f"env_options are for liftwm environments; {self.name} {takes}")
        return {"image_size": asked.image_size} if self.adapter else {}

    def check(self, options: EnvOptions, policy: str) -> None:
        """Raise UserError for options or a policy that this environment cannot have, or a policy that does not exist."""
        self.options(options)
        if is_function_name(policy):
            find_function(policy, f"policy={policy}")
        elif not self.ours and policy not in ("explore", "wander", "random"):
            what = f"policy={policy} knows liftwm environments only"
            raise UserError(f"{what}: with env={self.name} use policy=wander, random or my_policy:make_policy")
        if self.gym_id and not self.ours:
            self._check_camera()

    def hold_to_contract(self, env: gym.Env, seed: int) -> None:
        """Raise UserError where an environment, built here, does not keep the contract; ours are known to."""
        if self.ours:
            return
        from liftwm_envs.contract import check_env

        with users_code(f"env={self.name}"):
            faults = check_env(env, seed)
        if faults:
            more = f", and {len(faults) - 1} more" if faults[1:] else ""
            raise UserError(
                f"env={self.name}: {faults[0]}{more} (liftwm doctor env={self.name} lists all; {PAGE} has the contract)"
            )

    def _check_camera(self) -> None:
        """Raise UserError where a Gymnasium id, beside which there is no camera source, shows no camera."""
        how = f"wrap it in a make_env that returns (env, camera_source), env=my_package:make_env; {PAGE} says how"
        try:
            with users_code(f"env={self.name}"):
                env = gym.make(self.gym_id, disable_env_checker=True)
        except UserError as error:
            raise UserError(f"{error}; once it can be made: {how}") from error
        space = env.observation_space
        env.close()
        lacks = [key for key in CAMERA if not isinstance(space, gym.spaces.Dict) or key not in space.spaces]
        if lacks:
            raise UserError(f"env={self.name}: its observation lacks {', '.join(lacks)}: {how}")

    def policy_of(self, policy: str) -> str:
        """What acts when this is asked for: `explore`, the default, knows ours alone; elsewhere `wander` explores."""
        return "wander" if policy == "explore" and not self.ours else policy

    def make(self, options: EnvOptions, truth: bool) -> gym.Env:
        """Build the environment.

        Args:
            options: as `options` takes them.
            truth: whether ours and adapters fill in `info["truth"]`; others do as they like.
        """
        import_named(self.module, f"env={self.name}")
        words = self.options(options)
        if self.ours:
            env = gym.make(self.gym_id, disable_env_checker=True, truth=truth, **words)
            return env.unwrapped  # the order-enforcing wrapper costs 3 % of collection and checks only our own code
        from liftwm_envs.contract import ContractEnv

        if self.adapter:
            from liftwm_envs.adapters import make

            return ContractEnv(make(self.adapter, truth=truth, **words))
        if self.gym_id:
            with users_code(f"env={self.name}"):
                return ContractEnv(gym.make(self.gym_id, disable_env_checker=True))
        made = call_function(self.factory, f"env={self.name}")
        env, camera = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(env, gym.Env) or not (camera is None or callable(camera)):
            got = ", ".join(type(part).__name__ for part in (made if isinstance(made, tuple) else (made,)))
            raise UserError(f"env={self.name} returned {got}, expected a gymnasium.Env, or a pair of one and a camera source")
        return ContractEnv(env, camera)

    def make_task(self, task: Task, goal: str = "attributes", **more: Any) -> gym.Env:
        """Build the environment so that `reset` shows its world first: `info["tour"]`, as `GuidedTour` and `ExploredTour` give.

        Args:
            task: options, and what matters where the environment is none of ours.
            goal: how objects of ours are called: "attributes", or "picture" (`PictureCalls`); others call as they do.
            more: other keyword arguments of ours.

        Raises:
            UserError: `task.tour` is neither `wander` nor a policy of the user's, or pictures of what calls by none.
        """
        from liftwm_envs.contract import goal_kind
        from liftwm_envs.wrappers import GuidedTour, PictureCalls

        if self.ours:
            pictures = goal == "picture"
            words = self.options(task.env_options) | more | ({"truth": True} if pictures else {})
            env = gym.make(self.gym_id, disable_env_checker=True, **words)
            return GuidedTour(PictureCalls(env) if pictures else env)
        env = self.make(task.env_options, truth=False)
        if goal == "picture" and goal_kind(env) != "picture":
            raise UserError(f"goal=picture: env={self.name} calls things in its own way, by {goal_kind(env) or 'no goal'}")
        toured = explored(env, task.tour, task.tour_steps)
        return gym.wrappers.TimeLimit(toured, task.max_steps)


def guide_of(tour: str) -> Callable[[gym.Env, int], Any]:
    """Makes who walks through worlds that give no tour, from the environment and a seed.

    Raises:
        UserError: `tour` is neither `wander` nor a policy of the user's.
    """
    from liftwm_envs.actions import Wander

    if is_function_name(tour):
        return partial(UsersPolicy, tour)
    if tour != "wander":
        raise UserError(f"tour={tour}: expected wander or my_policy:make_policy")
    return Wander


def explored(env: gym.Env, tour: str, tour_steps: int) -> gym.Env:
    """Anybody's environment with a tour: its own, or `tour` walks through it for so many steps; raises as `guide_of`."""
    from liftwm_envs.wrappers import ExploredTour

    return ExploredTour(env, guide_of(tour), tour_steps)


def find_env(name: str) -> EnvSource:
    """Find an environment by name, without building it.

    Raises:
        UserError: nothing of that name; the nearest real one is named.
    """
    importlib.import_module("liftwm_envs")  # registers ours
    from liftwm_envs.adapters import is_name

    if is_name(name):
        return EnvSource(name, adapter=name)
    module, _, name_there = name.rpartition(":")
    found = import_named(name, f"env={name}") if is_function_name(name) else None
    if found is not None and callable(getattr(found, name_there, None)):
        return EnvSource(name, factory=name)
    ours = {gym_id.removeprefix(OURS).rsplit("-v", 1)[0]: gym_id for gym_id in gym.registry if gym_id.startswith(OURS)}
    gym_id = ours.get(name_there, name_there)
    if gym_id in gym.registry:
        return EnvSource(name, gym_id=gym_id, module=module or "liftwm_envs")
    if found is not None:
        find_function(name, f"env={name}")
    near = difflib.get_close_matches(name, [*ours, *gym.registry], 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"ours are {', '.join(sorted(ours))}; yours is my_package:make_env"
    raise UserError(f"unknown env '{name}': {hint}")


def versions() -> dict[str, str]:
    """Versions of what decides the content of an episode."""
    names = ("numpy", "mujoco", "gymnasium")
    return {"embodied_liftwm": __version__, **{name: importlib.metadata.version(name) for name in names}}


def use_renderer(renderer: str) -> None:
    """Choose the GL of this process, before MuJoCo is imported."""
    if renderer != "auto":
        os.environ["MUJOCO_GL"] = renderer
