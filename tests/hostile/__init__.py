"""File systems, permissions, descriptors and contents that are not as they should be."""
