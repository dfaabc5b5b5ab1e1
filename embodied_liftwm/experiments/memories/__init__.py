"""Every memory on one scale."""
