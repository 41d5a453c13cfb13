"""Deaths, failing system calls and power cuts, at every step."""
