"""Teachers of our own, trained in other rooms and shipped with their cards."""
