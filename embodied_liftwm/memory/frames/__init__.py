"""Memories of frames as they were: all of them, the newest, or those that stereo needs."""
