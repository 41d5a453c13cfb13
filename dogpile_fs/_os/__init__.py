"""One system call per function, its errors distinguished."""
