"""What passes between the stages of writing a frame: the frame, where texels fall in it, and what becomes of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from embodied_liftwm.protocols import Camera


class Surfaces(NamedTuple):
    """The geometry that frames show."""

    points: Tensor  # [B, H, W, 3] metres, world frame
    normals: Tensor  # [B, H, W, 3] unit, world frame, towards the camera
    nearest: Tensor  # [B, H, W] least depth of the 3 x 3 pixels around, metres
    edge: Tensor  # [B, H, W] bool: among them are two surfaces


class Frame(NamedTuple):
    """One frame as it is written; pixels of all rows in one list, B * H * W long, unless said otherwise."""

    camera: Camera  # B cameras
    depth: Tensor  # z-depth, metres
    certainty: Tensor  # inverse variance of where the surface is, 1/m^2; 0 where depth is too doubtful
    rgb: Tensor  # [B * H * W, 3] in [0, 1]
    latents: Tensor  # [B * h * w, D]
    stride: int  # pixels a side of a cell of latents
    points: Tensor  # [B * H * W, 3] metres, world frame
    normals: Tensor  # [B * H * W, 3] unit, world frame, towards the camera
    nearest: Tensor  # least depth of the 3 x 3 pixels around, metres
    edge: Tensor  # bool: among them are two surfaces
    footprint: Tensor  # metres a pixel's width covers there
    finest: Tensor  # and edge of the finest texels that it may allocate: the footprint, or more where the budget was full
    # and nothing small is to be seen


def cell_of(pixel: Tensor, frame: Frame) -> Tensor:
    """The cell of latents that pixels of the list, int64 of any shape, belong to. int64"""
    width, height = frame.camera.width, frame.camera.height
    inner = pixel % (width * height)
    columns, rows = width // frame.stride, height // frame.stride
    cell = (inner // width // frame.stride) * columns + inner % width // frame.stride
    return pixel // (width * height) * (columns * rows) + cell


class Look(NamedTuple):
    """Where texels of R patches fall in the frames of their rows."""

    pixel: Tensor  # [R, M] int64 in the list of all pixels, 0 outside
    uv: Tensor  # [R, M, 2] pixels
    z: Tensor  # [R, M] metres
    inside: Tensor  # [R, M] bool


class Association(NamedTuple):
    """What becomes of the texels of R patches."""

    heights: Tensor  # [R, M] metres: theirs, or where empty ones meet the surface
    look: Look
    matched: Tensor  # [R, M] bool: what its pixel sees
    hidden: Tensor  # [R, M] bool: something of another colour is in front of them now
    gone: Tensor  # [R, M] bool
    filled: Tensor  # [R, M] bool: empty ones that meet a surface
