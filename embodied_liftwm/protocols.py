"""The contracts between models, agents and the benchmark. Read this first.

Axis letters: B batch, T time, V views, N primitives (patches or Gaussians), H W image, D latent channels,
A action, G goal.
Units: metres, radians, seconds, pixels. Cameras are OpenCV (x right, y down, z forward); a pose is `world_from_camera`.
Pixel centres lie at half-integers. Depth is z-depth in metres, 0 where invalid. RGB is float32 [B, 3, H, W] in [0, 1].

A model is anything that satisfies `WorldModel`. Planners, policies and the benchmark need these seven methods and nothing
else, so a model that is not ours is scored by the same code as ours. One that keeps points may say where they are
(`ExplicitModel`), ours or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from embodied_liftwm.tensor_tree import TensorTree


@dataclass(frozen=True)
class Camera(TensorTree):
    """A batch of pinhole cameras of one image size."""

    intrinsics: Tensor  # [B, 3, 3] pixels, principal point with pixel centres at half-integers
    world_from_camera: Tensor  # [B, 4, 4] OpenCV pose in the world frame of the episode
    height: int
    width: int


@dataclass(frozen=True)
class Observation(TensorTree):
    """What the agent perceives at one step."""

    rgb: Tensor  # [B, 3, H, W] float32 in [0, 1]
    camera: Camera  # the pose the agent believes it has (exact, or odometry)
    action: Tensor  # [B, A] the action that led here; zeros on the first frame, [B, 0] where nobody acts, as on a camera path
    is_first: Tensor  # [B] bool, true on the first frame of an episode: the model forgets what it held
    goal: Tensor | None = None  # [B, G] the task's instruction in numbers, zeros before it is given; None where it is none


@dataclass(frozen=True)
class View(TensorTree):
    """What a model believes a camera would see."""

    rgb: Tensor  # [B, 3, H, W] in [0, 1]
    depth: Tensor  # [B, H, W] metres, 0 where the model has no opinion
    seen: Tensor  # [B, H, W] in [0, 1]: probability that this pixel shows something that was observed, not imagined
    normal: Tensor | None = None  # [B, 3, H, W] unit, camera frame, facing the camera
    latent: Tensor | None = None  # [B, D, h, w] what was splatted, before decoding


@dataclass(frozen=True)
class Prediction(TensorTree):
    """What `predict(state)` returns of a model that has it, as ours do to be trained by it; nobody who acts or judges asks."""

    reward: Tensor  # [B] expected reward of the step that led here
    continuation: Tensor  # [B] probability that the episode goes on


@dataclass(frozen=True)
class AttributeGoal(TensorTree):
    """What something is like in numbers, as a task says it."""

    attributes: Tensor  # [G] the first three a colour in [0, 1]; all zeros before it is called


@dataclass(frozen=True)
class PictureGoal(TensorTree):
    """What something looks like: a crop, or a whole frame and a mask."""

    rgb: Tensor  # [3, H, W] in [0, 1]; all zeros before it is called
    mask: Tensor | None = None  # [H, W] in [0, 1], 1 on it; None where it stands in the middle of a crop


@dataclass(frozen=True)
class PointGoal(TensorTree):
    """What an earlier frame showed at a pixel."""

    pixel: Tensor  # [2] right and down, centres at half-integers
    camera: Camera  # of that frame, batch of one


@dataclass(frozen=True)
class PlaceGoal(TensorTree):
    """A place in the world."""

    xyz: Tensor  # [3] the world's unit of length


Goal = AttributeGoal | PictureGoal | PointGoal | PlaceGoal
"""What an agent is to go to. `goals.same_goal` compares two."""


@dataclass(frozen=True)
class Candidates(TensorTree):
    """Where a goal may be, best first."""

    xyz: Tensor  # [K, 3] world
    probability: Tensor  # [K] that it is this one, falling; what is missing to 1 is for none of them


class State(TensorTree):
    """A pytree of tensors with a batch axis: stack, detach, move, save and compare it. Opaque to everyone but its model."""


S = TypeVar("S", bound=TensorTree)


@runtime_checkable
class WorldModel(Protocol[S]):
    """What the planners, the policies and the benchmark need of any world model."""

    def initial_state(self, batch_size: int) -> S:
        """A state that remembers nothing."""
        ...

    def observe(self, state: S, observation: Observation) -> S:
        """Write: take in what the camera sees now."""
        ...

    def imagine(self, state: S, action: Tensor) -> S:
        """Advance one step by `action` [B, A] without looking: moves the believed ego camera, and moves what moves."""
        ...

    def render(self, state: S, camera: Camera) -> View:
        """Read: what `camera` would see."""
        ...

    def surprise(self, state: S, observation: Observation) -> Tensor:
        """-log p of what is seen now, in nats per pixel, before observing it. [B]"""
        ...

    def summarize(self, state: S) -> Tensor:
        """What probes and policies may read. [B, F]"""
        ...

    def ego_camera(self, state: S) -> Camera:
        """The camera the state believes it looks through now; `imagine` moves it. Requires one `observe` before."""
        ...


def frame_size_of(model: object) -> tuple[int, int] | None:
    """Height and width of the frames that a model says it takes: its `image_size`, two numbers, or one for square frames."""
    size = getattr(model, "image_size", None)
    return size if size is None else (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


class ExplicitModel(Protocol):
    """What a world model may offer beside `WorldModel`, if its state is made of points, Gaussians or surface elements."""

    def primitives(self, state: Any) -> tuple[Tensor, Tensor, Tensor]:
        """What the first row of a state keeps: places [K, 3] world, metres, now; colours [K, 3] and opacities [K] in [0, 1]."""
        ...


class GoalFinder(Protocol):
    """Turns a goal into places: replaceable, `planner.goal_finder=my_package:make_finder`."""

    def find(self, model: WorldModel, state: Any, goal: Goal) -> Candidates:
        """Look for a goal in what a state remembers.

        Args:
            model: whose state it is. A planner's also has `primitives` (`ExplicitModel`), whatever the model: what it keeps, or
                what its pictures showed from the places of the tour.
            state: batch of one.
            goal: what is looked for.

        Returns:
            Ranked places, none where nothing is like it.
        """
        ...
