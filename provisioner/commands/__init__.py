"""The subcommands, one module each, as `cli` lists them.

A module has HELP (one line for `provision --help`), EXAMPLE (a command line), `add_arguments(parser)` and
`run(arguments)`, which returns the exit status and raises ProvisionError. Several of them share `output` (standard
output as lines or JSON) and `open_source` (from names and `source_options` to the source of an image).

Data goes to standard output, and everything else through a Console to standard error. Slow imports are made in `run`,
so that `--help` and errors about the command line come quickly. May import everything but `cli`.
"""
