"""Novel views: what a model must show of an episode after it has watched its start, and what bounds it."""
