"""The COMMAND that `dogpile-fs run` runs: how it is started, watched and ended."""
