"""Geometric teachers: Depth Anything V2, DUSt3R, MASt3R, DISK, and multi-view stereo without weights."""
