"""Helpers of several tests: processes, tracing, faults, and the scenes that run under them."""
