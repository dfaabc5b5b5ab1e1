"""From what a memory shows on its grid to pixels."""
