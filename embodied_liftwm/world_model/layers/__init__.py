"""Layers that networks of world models share."""
