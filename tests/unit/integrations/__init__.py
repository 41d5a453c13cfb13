"""Links to frameworks, each with the framework itself."""
