"""Environments by name, ours and anyone's, and where their camera is.

    Revisit-S                   ours, with `EnvOptions`
    liftwm/Revisit-S-v0, ...    any Gymnasium id
    my_package:make_env         a function of yours that returns a `gymnasium.Env`, or a pair of one and a `CameraSource`

An observation is a dict with `rgb` [H, W, 3] uint8, `intrinsics` (9 numbers) and `world_from_camera` (16 numbers), and `goal`
where the task has one. An environment whose observation lacks the camera comes with a `CameraSource`; its observation may then
be the image alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.metadata
import os
from dataclasses import dataclass

import gymnasium as gym

from embodied_liftwm import __version__
from embodied_liftwm.config import EnvOptions
from embodied_liftwm.data.recorder import CameraSource
from embodied_liftwm.errors import UserError
from embodied_liftwm.plugins import call_function, find_function, import_named, is_function_name, users_code

OURS = "liftwm/"
CAMERA = ("rgb", "intrinsics", "world_from_camera")
"""What the observation of an environment holds that needs no camera source."""
FOREIGN = "docs/data_format.md says how"


@dataclass(frozen=True)
class EnvSource:
    """A named environment that exists; `make` builds it. Picklable, so that workers build their own."""

    name: str  # as the user wrote it
    gym_id: str = ""  # id to give to gymnasium.make, once
    module: str = "liftwm_envs"  # this was imported, which registers it, or else
    factory: str = ""  # module:function

    @property
    def ours(self) -> bool:
        """Whether it is one of liftwm_envs, with its options, truth and scripted policies."""
        return self.gym_id.startswith(OURS)

    def check(self, options: EnvOptions, policy: str) -> None:
        """Raise UserError for options or a policy that this environment cannot have, or a policy that does not exist."""
        if not self.ours and options != EnvOptions():
            raise UserError(f"env_options are for liftwm environments; {self.name} takes none, set them in your make_env")
        if is_function_name(policy):
            find_function(policy, f"policy={policy}")
        elif not self.ours and policy not in ("explore", "random"):
            what = f"policy={policy} knows liftwm environments only"
            raise UserError(f"{what}: with env={self.name} use policy=random or my_policy:make_policy")
        if self.gym_id and not self.ours:
            self._check_camera()

    def _check_camera(self) -> None:
        """Raise UserError where a Gymnasium id, beside which there is no camera source, shows no camera."""
        how = f"wrap it in a make_env that returns (env, camera_source), env=my_package:make_env; {FOREIGN}"
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
        """What acts when this is asked for: `explore`, the default, knows ours alone, and means random actions elsewhere."""
        return "random" if policy == "explore" and not self.ours else policy

    def make(self, options: EnvOptions, truth: bool) -> tuple[gym.Env, CameraSource | None]:
        """Build the environment, and its camera source where it has one.

        Args:
            options: keyword arguments of ours; other environments take none.
            truth: whether `info["truth"]` is filled in (ours only).
        """
        import_named(self.module, f"env={self.name}")
        if self.ours:
            env = gym.make(self.gym_id, disable_env_checker=True, truth=truth, **dataclasses.asdict(options))
            return env.unwrapped, None  # the order-enforcing wrapper costs 3 % of collection and checks only our own code
        if self.gym_id:
            with users_code(f"env={self.name}"):
                return gym.make(self.gym_id, disable_env_checker=True), None
        made = call_function(self.factory, f"env={self.name}")
        env, camera = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        if not isinstance(env, gym.Env) or not (camera is None or callable(camera)):
            got = ", ".join(type(part).__name__ for part in (made if isinstance(made, tuple) else (made,)))
            raise UserError(f"env={self.name} returned {got}, expected a gymnasium.Env, or a pair of one and a camera source")
        return env, camera


def find_env(name: str) -> EnvSource:
    """Find an environment by name, without building it.

    Raises:
        UserError: nothing of that name; the nearest real one is named.
    """
    importlib.import_module("liftwm_envs")  # registers ours
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
