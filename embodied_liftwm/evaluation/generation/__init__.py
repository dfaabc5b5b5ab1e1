"""Generated video: camera paths, tours, closed loops and what they are scored by."""
