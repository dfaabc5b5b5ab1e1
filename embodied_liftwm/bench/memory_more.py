"""Memories of `liftwm bench memory` that are neither a cloud nor a cache of latents: relief patches, and raw frames.

*Patches* have the encoder of all, and a decoder of their own, which works on splatted pixels (`SplatDecoder`); what they are
charged with is their whole budget. A picture that was made has no latents until it is encoded again: that is part of its write.

*Raw frames* have the encoder and the decoder of all, and attention between them. A read chooses frames among the nearest,
encodes those and attends to them; that hardly grows with age. Their bytes grow by one frame a frame. To append costs the same
at every age, but for a copy of everything each time that the room, which grows by a quarter, is full: it is timed without.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.bench.memory_parts import (
    DEPTH_SPREAD,
    ENCODE,
    ENCODE_MADE,
    READ,
    Bytes,
    Made,
    Memory,
    Told,
    encoded,
    stage,
)
from embodied_liftwm.bench.memory_room import Frame
from embodied_liftwm.bench.stopwatch import Stopwatch
from embodied_liftwm.geometry.cameras import resize_intrinsics
from embodied_liftwm.memory.frames.context import ContextFrames
from embodied_liftwm.memory.latents.cache import cell_evidence
from embodied_liftwm.memory.patches.map import PatchMap
from embodied_liftwm.memory.patches.read import read_patches
from embodied_liftwm.memory.patches.write import write_patches
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.baselines.context import ContextWorldModel
from embodied_liftwm.world_model.baselines.context_attention import FrameFeatures
from embodied_liftwm.world_model.liftwm import LiftWM, values_of
from embodied_liftwm.world_model.liftwm_cloud import CloudLiftWM


class PatchMemory(Memory):
    """A fixed number of relief patches; what moves has none."""

    def __init__(self, model: LiftWM, encoder: CloudLiftWM) -> None:
        """`encoder` finds the latents of pictures that were made."""
        self.model, self._encoder = model, encoder
        super().__init__("patches", model.config.stride, self.empty().nbytes())
        self.decoder = model.decoder

    def empty(self) -> PatchMap:
        like = next(self.model.parameters()).detach()
        return cast(PatchMap, self.model.empty_world(1, self.model.config.budget, like))

    def observe(self, world: PatchMap, frame: Frame, latents: Tensor) -> PatchMap:
        return self._observe(world, frame, frame.rgb, latents)

    def read(self, world: PatchMap, camera: Camera, watch: Stopwatch) -> Told:
        with stage(watch, READ):
            read = read_patches(world, values_of(world), camera)
            return Told(read.latents * read.visible.unsqueeze(1), read.visible, read.depths * read.visible)

    def decode(self, told: Told, camera: Camera) -> Made:
        doubt = told.latents[:, -1:] if self.model.config.learned_fusion else None
        decoded = self.model.decoder(told.latents[:, :-1], told.visible, told.depths, camera, doubt)
        return Made(decoded.rgb.clamp(0, 1), None)

    def write(self, world: PatchMap, made: Made, frame: Frame, watch: Stopwatch) -> PatchMap:
        with stage(watch, ENCODE_MADE):
            latents = encoded(self._encoder, made.rgb, frame.camera)
        return self._observe(world, frame, made.rgb, latents)

    def bytes(self, world: PatchMap) -> Bytes:
        patches = [t for t in world.named_tensors().values() if t.dim() > 1]
        slot = sum(t.shape[2:].numel() * t.element_size() for t in patches)
        return Bytes(world.nbytes() - int((~world.occupied).sum()) * slot, world.nbytes())

    def coverage(self, told: Told) -> Tensor:
        return F.avg_pool2d(told.visible.unsqueeze(1), self.stride).squeeze(1)

    def _observe(self, world: PatchMap, frame: Frame, rgb: Tensor, latents: Tensor) -> PatchMap:
        certainty = cell_evidence(frame.depth, torch.full_like(frame.depth, DEPTH_SPREAD), frame.camera, 1)
        return write_patches(world, frame.depth, certainty, latents, rgb, frame.camera, self.model.fusion)


class ContextMemory(Memory):
    """All frames as they were."""

    def __init__(self, model: ContextWorldModel) -> None:
        super().__init__("context", model.config.stride)
        self.model, self.decoder = model, model.decoder

    @property
    def walks_far(self) -> bool:
        return True

    def empty(self) -> ContextFrames:
        return ContextFrames.empty(1, self.model.image_size, next(self.model.parameters()).detach())

    def observe(self, world: ContextFrames, frame: Frame, latents: Tensor) -> ContextFrames:
        return world.add(frame.rgb, frame.camera.world_from_camera)

    def read(self, world: ContextFrames, camera: Camera, watch: Stopwatch) -> Told:
        with stage(watch, READ):
            chosen, usable = world.choose(camera, self.model.config.context_views)
            rgb, poses = (found.flatten(0, 1) for found in world.take(chosen))
        frames = replace(camera, intrinsics=camera.intrinsics.expand(len(rgb), 3, 3), world_from_camera=poses)
        with stage(watch, ENCODE):
            features = self.model.features(rgb, frames.world_from_camera, frames.intrinsics)
        with stage(watch, READ):
            seen = FrameFeatures(*(x.unsqueeze(0) for x in features))
            read = self.model.attention(seen, self._cells(frames), usable, self._cells(camera))
            return Told(read.latents * read.visible.unsqueeze(1), read.visible, read.depths * read.visible)

    def write(self, world: ContextFrames, made: Made, frame: Frame, watch: Stopwatch) -> ContextFrames:
        # None is kept, so each is written over the one before: as the newest, without a copy of all that is older.
        newest = replace(world, used=world.count.clone())
        return newest.add(made.rgb, frame.camera.world_from_camera)

    def bytes(self, world: ContextFrames) -> Bytes:
        return Bytes(world.bytes, world.nbytes())

    def coverage(self, told: Told) -> None:
        return None

    def _cells(self, camera: Camera) -> Camera:
        """The same cameras with a pixel a cell."""
        intrinsics = resize_intrinsics(camera.intrinsics, 1.0 / self.stride)
        return Camera(intrinsics, camera.world_from_camera, camera.height // self.stride, camera.width // self.stride)
