"""RealEstate10K's reader, where scripts have found it: it lives in `importers`."""

from embodied_liftwm.data.importers.realestate import read_camera_file, read_clip

__all__ = ["read_camera_file", "read_clip"]
