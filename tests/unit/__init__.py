"""A folder or a file for each of the package."""
