"""A model at the public boundary: what it returns is checked, and a fault is named in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, Scorable
from embodied_liftwm.plugins import users_fault
from embodied_liftwm.protocols import Camera, Observation, View, frame_size_of
from embodied_liftwm.tensor_tree import TensorTree
from embodied_liftwm.world_model.generation import render_then_observe

NEEDED = ("initial_state", "observe", "render")
"""Methods of `Scorable`."""
ALL = (*NEEDED, "imagine", "surprise", "summarize", "ego_camera")
"""Methods of `WorldModel`."""
RANGES = {"rgb": (-0.5, 1.5), "depth": (-1e-3, 1e6), "seen": (-1e-3, 1.001)}
"""Of a view's values: decoders may overshoot a little, and arithmetic may round; beyond, they are another unit."""


class CheckedModel:
    """Passes calls on to a model and raises `UserError` for outputs of a wrong type, shape or range, or with NaN.

    Args:
        model: anything that satisfies `WorldModel`.
        name: what rows call it.
        source: what messages call it: where it was loaded from.
    """

    def __init__(self, model: Scorable, name: str, source: str = "") -> None:
        self.model: Any = model
        self.name = name
        self.source = source or name
        self.where = ""  # the episode and frame at hand, which messages name
        self._untold = False
        self.needs(NEEDED)

    def at(self, episode: int, frame: int) -> CheckedModel:
        """Say which episode and frame the next calls are about; returns itself."""
        self.where = f" at episode {episode}, frame {frame}"
        return self

    def needs(self, methods: Sequence[str]) -> None:
        """Raise UserError for the first of these methods that the model lacks."""
        for method in methods:
            if not callable(getattr(self.model, method, None)):
                raise UserError(f"model {self.source}: a {type(self.model).__name__} without {method}(), which WorldModel has")

    def initial_state(self, batch_size: int) -> TensorTree:
        """A state that remembers nothing."""
        return self._state(self._ask("initial_state", batch_size), "initial_state", batch_size)

    def observe(self, state: TensorTree, observation: Observation) -> TensorTree:
        """Write one observation."""
        return self._state(self._ask("observe", state, self._told(observation)), "observe", len(observation.rgb))

    def imagine(self, state: TensorTree, action: Tensor) -> TensorTree:
        """Advance one step without looking."""
        return self._state(self._ask("imagine", state, action), "imagine", len(action))

    def summarize(self, state: TensorTree, rows: int | None = None) -> Tensor:
        """What probes may read of a state of `rows` rows, or of as many as its tensors have. [B, F]"""
        rows = len(next(iter(state.named_tensors().values()))) if rows is None else rows
        return self._checked("summarize", "", self._ask("summarize", state), (rows, "F"))

    def surprise(self, state: TensorTree, observation: Observation) -> Tensor:
        """-log p of what is seen now, before observing it. [B]"""
        self.needs(["surprise"])
        return self._checked("surprise", "", self._ask("surprise", state, self._told(observation)), (len(observation.rgb),))

    def ego_camera(self, state: TensorTree) -> Camera:
        """The camera that the state believes it looks through."""
        found = self._ask("ego_camera", state)
        if not isinstance(found, Camera):
            raise UserError(f"model {self.source}: ego_camera returned a {type(found).__name__}, expected a Camera{self.where}")
        pose = found.world_from_camera
        self._checked("ego_camera", "world_from_camera", pose, pose.shape)
        return found

    def render(self, state: TensorTree, camera: Camera) -> View:
        """Read what the cameras would see; each output checked."""
        return self._view(self._ask("render", state, camera), camera)

    def generate(self, state: TensorTree, camera: Camera) -> tuple[TensorTree, View]:
        """One step of closed-loop generation: the model's own where it has one, else what is rendered is observed."""
        own = getattr(self.model, "generate", None)
        if not callable(own):
            return render_then_observe(self, state, camera, getattr(getattr(self.model, "shapes", None), "action_dim", 0))
        stepped = own(state, camera)
        if not isinstance(stepped, tuple) or len(stepped) != 2:
            raise UserError(f"model {self.source}: generate returned a {type(stepped).__name__}, expected (state, view)")
        return self._state(stepped[0], "generate", len(camera.intrinsics)), self._view(stepped[1], camera, "generate")

    def fits(self, image_size: tuple[int, int], action_dim: int, goal_dim: int | None, where: str) -> None:
        """Raise UserError if the model says that it is for images, actions or goals of another size than `where` has.

        Goals that are told to no model have no size: None.
        """
        wanted_size = frame_size_of(self.model) or image_size
        if wanted_size != tuple(image_size):
            has, wanted = ("x".join(map(str, pair)) for pair in (image_size, wanted_size))
            raise UserError(f"{where} has images of {has}, model {self.source} is for {wanted}: one of them must change")
        shapes = getattr(self.model, "shapes", None)
        for name, found in (("action_dim", action_dim), ("goal_dim", goal_dim)):
            expected = getattr(shapes, name, found)
            if found is not None and expected != found:
                raise UserError(f"{where} has {name} {found}, model {self.source} is for {expected}: not the same task or body")

    def watch_only(self, action_dim: int, goal_dim: int) -> bool:
        """Tell the model from now on neither actions nor goals, if it says that it is for ones of other sizes than these.

        Views need neither, so that frames of any body and task can be judged. Returns whether it is so.
        """
        shapes = getattr(self.model, "shapes", None)
        self._untold = any(
            getattr(shapes, name, found) != found for name, found in (("action_dim", action_dim), ("goal_dim", goal_dim))
        )
        return self._untold

    def _told(self, observation: Observation) -> Observation:
        """An observation as the model takes it."""
        if not self._untold:
            return observation
        sizes, like = self.model.shapes, observation.rgb
        action, goal = (like.new_zeros(len(like), size) for size in (sizes.action_dim, sizes.goal_dim))
        return replace(observation, action=action, goal=goal)

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the model returns; one that takes other arguments than the protocol's is named."""
        try:
            return getattr(self.model, method)(*arguments)
        except TypeError as error:
            if f"{method}() " not in str(error) or users_fault(error):
                raise
            raise UserError(f"model {self.source}: {error}: see embodied_liftwm.protocols.WorldModel{self.where}") from error

    def _state(self, state: Any, method: str, batch_size: int) -> TensorTree:
        if not isinstance(state, TensorTree):
            got = type(state).__name__
            raise UserError(f"model {self.source}: {method} returned a {got}, expected a TensorTree{self.where}")
        for name, tensor in state.named_tensors().items():
            if tensor.dim() == 0 or tensor.shape[0] != batch_size:
                wanted = f"expected a batch axis of {batch_size}, got {list(tensor.shape)}"
                raise UserError(f"model {self.source}: {method}: state.{name} {wanted}{self.where}")
        return state

    def _view(self, view: View, camera: Camera, method: str = "render") -> View:
        image = (len(camera.intrinsics), camera.height, camera.width)
        for name, shape in (("rgb", (image[0], 3, *image[1:])), ("depth", image), ("seen", image)):
            self._within(f"{method}: {name}", self._checked(method, name, getattr(view, name, None), shape), *RANGES[name])
        return view

    def _checked(self, method: str, name: str, value: Any, shape: Sequence[int | str]) -> Tensor:
        """A tensor of this shape, where a letter stands for any size, without NaN."""
        call = f"model {self.source}: {method}" + (f": {name}" if name else "")
        if not isinstance(value, Tensor):
            raise UserError(f"{call} expected a tensor {_sizes(shape)}, got {type(value).__name__}{self.where}")
        if value.dim() != len(shape) or any(n != got for n, got in zip(shape, value.shape, strict=True) if isinstance(n, int)):
            raise UserError(f"{call} expected {_sizes(shape)}, got {list(value.shape)}{self.where}")
        if not bool(torch.isfinite(value).all()):
            bad = f"{int((~torch.isfinite(value)).sum())} of {value.numel()} values"
            raise UserError(f"model {self.source}: {method}: {name or 'its output'} holds NaN or infinity at {bad}{self.where}")
        return value

    def _within(self, call: str, value: Tensor, least: float, most: float) -> None:
        low, high = float(value.min()), float(value.max())
        if low < least or high > most:
            got = f"expected within [{least:g}, {most:g}], got [{low:g}, {high:g}]"
            raise UserError(f"model {self.source}: {call} {got}{self.where}")


def _sizes(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


class ActingModel(CheckedModel):
    """A checked model as whoever acts on it has it: what is not of the protocol is the model's own.

    Views are not held against their ranges: decoders need not clamp, and a colour a little out of range ends no episode.
    """

    def __init__(self, model: Any, source: str = "") -> None:
        super().__init__(model, "acting", source or type(model).__name__)
        self.where = " while acting"

    def _within(self, call: str, value: Tensor, least: float, most: float) -> None:
        """No range is held."""

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.model, name)
        return partial(self._primitives, found) if name == "primitives" else found

    def _primitives(self, read: Callable[[TensorTree], Any], state: TensorTree) -> tuple[Tensor, Tensor, Tensor]:
        """`ExplicitModel.primitives`, which a model may have."""
        found = read(state)
        if not isinstance(found, tuple) or len(found) != 3 or not isinstance(found[0], Tensor):
            wanted = "expected (places, colours, opacities)"
            raise UserError(f"model {self.source}: primitives returned a {type(found).__name__}, {wanted}{self.where}")
        for part, width, name in zip(found, ((3,), (3,), ()), ("places", "colours", "opacities"), strict=True):
            self._checked("primitives", name, part, (len(found[0]), *width))
        return found


@torch.no_grad()
def try_out(model: CheckedModel, episode: Episode, device: str) -> None:
    """Ask a model everything about the first two frames of an episode: an hour's work should not end with what shows at once.

    Raises:
        UserError: it returns what it should not.
    """
    batch = EpisodeBatch([episode], [0], device)
    state = model.at(0, 0).observe(model.initial_state(1), batch.observation([(0, 0)]))
    now = batch.observation([(0, 1)])
    model.at(0, 1).surprise(state, now)
    state = model.observe(model.imagine(state, now.action), now)
    model.render(state, now.camera)
    model.summarize(state, 1)
    model.ego_camera(state)
