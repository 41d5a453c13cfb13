"""Processes, load and machine, and the computing of figures."""
