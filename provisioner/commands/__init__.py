"""The subcommands, one module each: HELP, `add_arguments(parser)` and `run(arguments)`."""
