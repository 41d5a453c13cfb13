"""A campaign that tries to break every promise; see docs/reliability.rst."""
