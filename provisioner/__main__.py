"""The entry point of `provision` and of `python -m provisioner`. It handles Ctrl-C while the rest is being imported."""

import sys


def main() -> int:
    """Run the command line of this process and return the exit status."""
    try:
        from provisioner import cli

        return cli.main()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
