"""What a persistent state is worth to a policy."""
