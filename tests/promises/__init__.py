"""What README.rst promises, tested with many processes."""
