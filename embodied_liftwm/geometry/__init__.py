"""Cameras, rigid motions, epipolar geometry, normals and warping. Functions of tensors, no state."""

from embodied_liftwm.geometry.cameras import back_project, camera_rays, pixel_centres, project, resize_intrinsics, transform
from embodied_liftwm.geometry.epipolar import epipolar_lines, fundamental_matrix, symmetric_epipolar_distance
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.geometry.se3 import (
    inverse_pose,
    look_at,
    make_pose,
    matrix_to_quat,
    quat_to_matrix,
    relative_pose,
    se3_exp,
    se3_log,
    skew,
    so3_exp,
    so3_log,
)
from embodied_liftwm.geometry.warp import Warp, backward_warp, sample_pixels

__all__ = [
    "Warp",
    "back_project",
    "backward_warp",
    "camera_rays",
    "depth_to_normals",
    "epipolar_lines",
    "fundamental_matrix",
    "inverse_pose",
    "look_at",
    "make_pose",
    "matrix_to_quat",
    "pixel_centres",
    "project",
    "quat_to_matrix",
    "relative_pose",
    "resize_intrinsics",
    "sample_pixels",
    "se3_exp",
    "se3_log",
    "skew",
    "so3_exp",
    "so3_log",
    "symmetric_epipolar_distance",
    "transform",
]
