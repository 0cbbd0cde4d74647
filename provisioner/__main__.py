"""The `provision` command, also as `python -m provisioner`: Ctrl-C is quiet while the rest is still being imported."""

import sys


def main() -> int:
    """Run the command line of this process, and give the exit status."""
    try:
        from provisioner import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
