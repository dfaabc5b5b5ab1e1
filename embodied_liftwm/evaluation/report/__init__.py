"""Pages, charts, plans and pictures."""
