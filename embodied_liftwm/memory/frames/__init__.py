"""Memories of frames as they were: all of them, with or without depth, the newest, or those that stereo needs."""
