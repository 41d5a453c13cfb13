"""A search over every Python module installed here, guarded by ``dogpile_fs``; see README.rst."""
