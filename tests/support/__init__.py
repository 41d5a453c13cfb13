"""What several tests use: processes, tracing, faults, and what is tried under them."""
