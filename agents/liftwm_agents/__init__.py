"""What acts: explorers that collect, planners and policies that use what a world model remembers."""
