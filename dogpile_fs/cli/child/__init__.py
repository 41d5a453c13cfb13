"""The children of ``run``: COMMAND and the shell commands, how they are started, waited for and ended."""
