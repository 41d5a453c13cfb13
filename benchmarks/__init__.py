"""dogpile_fs side by side with the alternatives: how fast, how fair, and by how much. See README.rst."""
