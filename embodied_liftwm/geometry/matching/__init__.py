"""Matching frames whose poses are known: sweeps over depths and velocities, and semi-global aggregation."""
