"""Use: agents that are toured, then told an object, and must go there."""
