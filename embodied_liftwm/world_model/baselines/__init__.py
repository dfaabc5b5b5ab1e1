"""World models without a 3D state, to compare with."""
