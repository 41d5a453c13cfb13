"""The locks: the mutex, the read/write lock, and their twins among threads."""
