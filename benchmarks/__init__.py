"""Side by side with what a user would pick instead: how fast, how fair, and by how much. See README.rst."""
