"""What each part of the objective brings."""
