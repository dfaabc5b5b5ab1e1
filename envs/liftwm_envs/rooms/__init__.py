"""Worlds from a seed: floor plans, objects, what moves and what hides. Numpy alone; no simulator."""
