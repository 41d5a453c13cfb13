"""Processes, load and machine, and the computing of what was measured."""
