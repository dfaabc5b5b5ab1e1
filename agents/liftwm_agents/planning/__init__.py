"""Planning on what a world model remembers: a map and a goal read out of its state, and actions searched in imagination."""
