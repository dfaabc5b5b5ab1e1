"""The tasks, and scripted policies that read the hidden state."""
