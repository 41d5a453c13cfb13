"""The command's subcommands, a module each."""
