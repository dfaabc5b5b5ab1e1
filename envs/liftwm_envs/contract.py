"""What an environment has to be for everything here, ours or anyone's: the wrapper that makes it so, and the check.

`docs/your_environment.md` is the page of this contract. Whatever records, trains, plans or judges sees one kind of environment:

    obs    rgb [H, W, 3] uint8, intrinsics [9] float32 pixels, world_from_camera [16] float32 OpenCV, goal (empty without one)
    info   all optional: success, position [2], shortest_path_m, distance_to_goal, bump, tour, truth
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from liftwm_envs.errors import EnvError

CAMERA = {"intrinsics": (3, 3), "world_from_camera": (4, 4)}
"""What an observation says of the camera, and its shape; stored flat, row by row."""
STEPPED = ("obs", "reward", "terminated", "truncated", "info")


class CameraSource(Protocol):
    """Says where the camera of an environment is, when its observation does not."""

    def __call__(self, env: Any, observation: Any, info: dict[str, Any]) -> tuple[NDArray, NDArray]:
        """Return intrinsics [3, 3] in pixels, and the OpenCV pose world_from_camera [4, 4] in metres, of this observation."""
        ...


class ContractEnv(gymnasium.Wrapper):
    """Anyone's environment as the contract has it: the camera and a goal in every observation, truth in arrays.

    An observation may be a dict, whose other entries are kept, or the image alone. Arrays are copies, so an environment may
    write into its own again and again.
    """

    def __init__(self, env: gymnasium.Env, camera: CameraSource | None = None) -> None:
        """
        Args:
            env: any environment.
            camera: where the camera is, if observations do not say.
        """
        super().__init__(env)
        self._camera, self._frame = camera, 0
        self.observation_space = _space_of(getattr(env, "observation_space", None))
        self._described: list[dict[str, Any]] = []

    @property
    def scene(self) -> Any:
        """Its `describe()` says what is in the world: the environment's own, else the objects of its first truth."""
        own = getattr(self.env.unwrapped, "scene", None)
        described = {"objects": self._described} if self._described else {}
        return own if hasattr(own, "describe") else SimpleNamespace(describe=lambda: described)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """A new episode.

        Raises:
            EnvError: it does not keep to Gymnasium's interface, or an observation without image or camera.
        """
        self._frame = 0
        more = {"options": options} if options else {}
        return self._seen(*asked(self.env, "reset", ("obs", "info"), seed=seed, **more))

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step; raises as `reset`."""
        obs, reward, terminated, truncated, info = asked(self.env, "step", STEPPED, action)
        self._frame += 1
        obs, info = self._seen(obs, info)
        return obs, reward, terminated, truncated, info

    def _seen(self, obs: Any, info: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        found = dict(obs) if isinstance(obs, Mapping) else {"rgb": obs}
        rgb = found.get("rgb")
        if not isinstance(rgb, np.ndarray) or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
            expected = "expected rgb [H, W, 3] uint8 in the observation"
            raise EnvError(f"rgb: frame {self._frame} has no image: {expected}, got {_describe(rgb)}")
        found["rgb"] = rgb.copy()
        if self._camera is not None:
            found |= dict(zip(CAMERA, self._from_source(obs, info), strict=True))
        elif any(key not in found for key in CAMERA):
            raise EnvError(
                f"frame {self._frame} has no camera: expected intrinsics and world_from_camera beside rgb in the observation, "
                "or a make_env that returns (env, camera_source)"
            )
        for name, shape in CAMERA.items():
            found[name] = self._numbers(name, found[name], shape).reshape(-1)
        goal = found.get("goal", ())
        picture = isinstance(goal, np.ndarray) and goal.ndim == 3
        found["goal"] = goal.copy() if picture else self._numbers("goal", goal, (-1,))
        if isinstance(info.get("truth"), Mapping):
            info = info | {"truth": self._told(dict(info["truth"]))}
        return found, info

    def _from_source(self, obs: Any, info: dict[str, Any]) -> Sequence[Any]:
        found: Any = self._camera(self.env, obs, info) if self._camera else None
        if not isinstance(found, tuple | list) or len(found) != 2:
            got = f"{len(found)} things" if isinstance(found, tuple | list) else type(found).__name__
            rule = "expected (intrinsics, world_from_camera)"
            raise EnvError(f"frame {self._frame}: the camera source returned {got}, {rule}")
        return found

    def _numbers(self, name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
        try:
            if np.iscomplexobj(value) or isinstance(value, str):
                raise TypeError
            with np.errstate(over="ignore"):
                return np.array(value, np.float32).reshape(shape)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # the last of a tensor that needs its gradient
            wanted = "numbers" if shape == (-1,) else f"{list(shape)} numbers"
            raise EnvError(f"{name}: frame {self._frame} holds {_describe(value)}, expected {wanted}") from None

    def _told(self, truth: dict[str, Any]) -> dict[str, Any]:
        """Truth with arrays for its `objects`: dicts of id and, where known, pose [7] or position [3], colour, shape."""
        if (objects := truth.pop("objects", None)) is None:
            return truth
        if self._frame == 0:
            self._described = [_description(o) for o in objects]
        if all("pose" in o or "position" in o for o in objects):
            poses = [o.get("pose", [*_listed(o.get("position", ())), 1, 0, 0, 0]) for o in objects]
            truth["object_pose"] = np.array(poses, np.float32).reshape(len(objects), 7)
        return truth


def asked(env: gymnasium.Env, method: str, wanted: Sequence[str], *arguments: Any, **named: Any) -> tuple[Any, ...]:
    """What `reset` or `step` of anyone's environment returns.

    Raises:
        EnvError: it takes or gives what it does not in Gymnasium's interface, as environments of older ones do.
    """
    given = ", ".join([*("action" for _ in arguments), *(f"{name}=" for name in named)])
    rule = f"expected {method}({given}) -> ({', '.join(wanted)}), as gymnasium.Env has it"
    try:
        made = getattr(env, method)(*arguments, **named)
    except TypeError as error:
        if f"{method}() " not in str(error) or not _on_the_way(error):
            raise
        raise EnvError(f"{error}: {rule}") from error
    if not isinstance(made, tuple) or len(made) != len(wanted) or not isinstance(made[-1], dict):
        parts = ", ".join(type(part).__name__ for part in made) if isinstance(made, tuple) else type(made).__name__
        raise EnvError(f"{method} of {type(env.unwrapped).__name__} returned ({parts}): {rule} with info a dict")
    return made


def _on_the_way(error: BaseException) -> bool:
    """Whether an error came before any code but ours and Gymnasium's was reached: a call that does not fit."""
    at, files = error.__traceback__, []
    while at is not None:
        files.append(at.tb_frame.f_code.co_filename)
        at = at.tb_next
    return all("gymnasium" in file.replace("\\", "/").split("/") for file in files[1:])


def _describe(value: Any) -> str:
    """Shape and dtype, or what it is."""
    return f"{list(value.shape)} {value.dtype}" if isinstance(value, np.ndarray) else " ".join(f"'{value}'".split())[:60]


def _description(thing: Mapping[str, Any]) -> dict[str, Any]:
    """An object of the truth as JSON has it."""
    place = thing.get("position", thing.get("pose", ())[:3])
    known = {"position": _listed(place)} if len(place) else {}
    return {
        "id": int(thing["id"]),
        "colour": _listed(thing.get("colour", (0, 0, 0))),
        "shape": str(thing.get("shape", "")),
    } | known


def _listed(values: Any) -> list[float]:
    return [float(value) for value in values]


def _space_of(space: spaces.Space | None) -> spaces.Dict:
    """The observation space of the contract, from that of any environment, or from none."""
    found = dict(space.spaces) if isinstance(space, spaces.Dict) else {"rgb": space} if space is not None else {}
    for name, shape in CAMERA.items():
        found[name] = spaces.Box(-np.inf, np.inf, (int(np.prod(shape)),), np.float32)
    goal = found.get("goal")
    if goal is None or goal.shape is None or len(goal.shape) != 3:
        width = 0 if goal is None else spaces.flatdim(goal)
        found["goal"] = spaces.Box(-np.inf, np.inf, (width,), np.float32)
    return spaces.Dict(found)


def goal_kind(env: gymnasium.Env) -> str:
    """What goals of an environment are: "attributes", "picture" or "place"; "" where it has none."""
    space = _space_of(env.observation_space)["goal"]
    if space.shape is not None and len(space.shape) == 3:
        return "picture"
    told = env.get_wrapper_attr("goal_kind") if env.has_wrapper_attr("goal_kind") else "attributes"
    return str(told) if spaces.flatdim(space) else ""


def given_by(env: gymnasium.Env) -> list[str]:
    """What an environment that keeps the contract gives, in words, and what its `info` does not tell."""
    obs, info = env.reset(seed=0)
    goal = f"{goal_kind(env)} {list(obs['goal'].shape)}" if goal_kind(env) else "none"
    wanted = ("success", "position", "shortest_path_m", "distance_to_goal", "bump", "tour", "truth")
    told = [f"truth ({', '.join(info['truth'])})" if name == "truth" else name for name in wanted if name in info]
    missing = [name for name in wanted if name not in info]
    return [
        f"frames {obs['rgb'].shape[0]} x {obs['rgb'].shape[1]}, actions {env.action_space}, goal {goal}",
        f"info tells {', '.join(told) or 'nothing'}; not {', '.join(missing) or 'anything else'}",
    ]


def check_env(env: gymnasium.Env, seed: int = 0, steps: int = 8) -> list[str]:
    """Every way found in which an environment breaks the contract, one line each; empty where it keeps it.

    It is reset with `seed` twice and steps `steps` times at random, so errors of its own code come through.

    Args:
        env: as commands see it: a `ContractEnv`, one of ours, or an adapter.
        seed: of the world that is tried.
        steps: random actions.
    """
    faults = _action_faults(env.action_space)
    if faults:
        return faults
    try:
        obs, info = env.reset(seed=seed)
        again, _ = env.reset(seed=seed)
        frames = [(obs, info)]
        faults += _same_world_faults(obs, again)
        env.action_space.seed(seed)
        for step in range(steps):
            obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
            frames.append((obs, info))
            faults += _step_faults(step, reward, terminated, truncated)
            if faults or terminated or truncated:
                break
    except EnvError as error:
        return [*faults, str(error)]
    for k, (seen, told) in enumerate(frames):
        faults += [f"{name}: frame {k} {fault}" for name, fault in _frame_faults(seen, env.observation_space, frames[0][0])]
        faults += [f"info: {name} of frame {k} {fault}" for name, fault in _info_faults(told, seen)]
        if faults:
            break
    return faults


def _action_faults(space: Any) -> list[str]:
    if isinstance(space, spaces.Discrete):
        return []
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating) or len(space.shape) != 1:
        return [f"action space {space} cannot be recorded: expected Discrete, or Box of one axis of floating point numbers"]
    return [] if space.is_bounded() else [f"action space {space}: expected bounds, such as Box(-1, 1, {space.shape})"]


def _same_world_faults(first: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """Whether two resets with one seed show one world; renderers may differ in their last digit."""
    rule = "expected reset(seed=) to decide the world, since tours, held-out scenes and continued datasets rest on it"
    if not np.allclose(first["world_from_camera"], again["world_from_camera"], atol=1e-3):
        return [f"world_from_camera: two resets with one seed begin at different places: {rule}"]
    same = first["rgb"].shape == again["rgb"].shape
    if not same or np.abs(first["rgb"].astype(int) - again["rgb"]).mean() > _SAME_PIXELS:
        return [f"rgb: two resets with one seed show different frames: {rule}"]
    return []


_SAME_PIXELS = 2.0
"""Mean difference, of 255, below which two frames are one: EGL and OSMesa differ by less on our rooms."""


def _step_faults(step: int, reward: Any, terminated: Any, truncated: Any) -> list[str]:
    faults = []
    if isinstance(reward, str | bytes) or np.ndim(reward) or not np.isreal(reward) or not np.isfinite(float(reward)):
        faults.append(f"reward: step {step} gives {_describe(reward)}, expected a finite number")
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, bool | np.bool_ | int) or value not in (0, 1):
            faults.append(f"{name}: step {step} gives {_describe(value)}, expected true or false")
    return faults


def _frame_faults(obs: dict[str, Any], space: spaces.Space, first: dict[str, Any]) -> list[tuple[str, str]]:
    """(entry of the observation, what is wrong with it)."""
    faults: list[tuple[str, str]] = []
    for name in CAMERA:
        if not np.isfinite(obs[name]).all():
            return [(name, f"holds {obs[name][~np.isfinite(obs[name])][0]}, expected finite numbers")]
    declared = space["rgb"].shape if isinstance(space, spaces.Dict) and "rgb" in space.spaces else None
    if obs["rgb"].shape != declared:
        faults.append(
            ("rgb", f"is {list(obs['rgb'].shape)}, but the observation space says {list(declared or ()) or 'nothing'}")
        )
    height, width = obs["rgb"].shape[:2]
    rotation = np.asarray(obs["world_from_camera"], np.float64).reshape(4, 4)[:3, :3]
    k = np.asarray(obs["intrinsics"], np.float64)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-3 or np.linalg.det(rotation) < 0:
        faults.append(("world_from_camera", "is no rigid motion: expected a rotation, with OpenCV axes, and a place"))
    if not (k[0] > 0 and k[4] > 0 and 1 < k[2] < width and 1 < k[5] < height and list(k[6:]) == [0, 0, 1]):
        row = " ".join(f"{value:g}" for value in k)
        faults.append(("intrinsics", f"is {row}: expected fx 0 cx, 0 fy cy, 0 0 1 in pixels of a {height} x {width} frame"))
    elif not np.array_equal(obs["intrinsics"], first["intrinsics"]):
        faults.append(("intrinsics", "changed, expected one camera of fixed focal length"))
    goal = obs.get("goal", np.zeros(0, np.float32))
    if goal.ndim not in (1, 3) or (goal.ndim == 3 and (goal.dtype != np.uint8 or goal.shape[2] not in (3, 4))):
        faults.append(("goal", f"is {_describe(goal)}, expected numbers, or a picture [h, w, 3 or 4] uint8"))
    elif goal.ndim == 1 and not np.isfinite(goal).all():
        faults.append(("goal", "holds what is no finite number"))
    return faults


def _info_faults(info: dict[str, Any], obs: dict[str, Any]) -> list[tuple[str, str]]:
    faults: list[tuple[str, str]] = []
    for name in ("success", "bump"):
        if name in info and (not isinstance(info[name], bool | np.bool_ | int) or info[name] not in (0, 1)):
            faults.append((name, f"is {_describe(info[name])}, expected true or false"))
    for name in ("shortest_path_m", "distance_to_goal"):
        value = info.get(name)
        if value is not None and (isinstance(value, str) or np.ndim(value) or not float(value) >= 0):
            faults.append((name, f"is {_describe(value)}, expected a length"))
    if "position" in info and np.shape(info["position"]) not in ((2,), (3,)):
        faults.append(("position", f"is {_describe(info['position'])}, expected world xy [2]"))
    truth = info.get("truth", {})
    for name in {"depth", "segmentation"} & set(truth):
        if np.shape(truth[name]) != obs["rgb"].shape[:2]:
            faults.append((f"truth {name}", f"is {list(np.shape(truth[name]))}, expected {list(obs['rgb'].shape[:2])}"))
    tour = info.get("tour")
    lacking = [key for key in ("rgb", *CAMERA, "action") if key not in tour] if tour is not None else []
    if lacking or (tour is not None and len({len(tour[key]) for key in tour}) != 1):
        faults.append(("tour", f"lacks {', '.join(lacking)}" if lacking else "holds arrays of different lengths"))
    return faults
