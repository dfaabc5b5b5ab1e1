"""The training of teachers of our own."""
