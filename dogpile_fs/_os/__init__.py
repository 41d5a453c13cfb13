"""One system call each, its errors told apart."""
