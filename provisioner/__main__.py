"""The entry point of `provision` and of `python -m provisioner`. It handles Ctrl-C while the rest is being imported."""

import sys


def main() -> int:
    """Run the command line of this process and return the exit status."""
    try:
        import signal

        from provisioner.signals import interruptible, raise_on

        raise_on(signal.SIGINT)
        interruptible(_import_the_rest)
        from provisioner import cli

        return cli.main()
    except KeyboardInterrupt:
        sys.stderr.write("provision: interrupted\n")
        return 130
    except (MemoryError, ImportError) as error:
        if isinstance(error, ImportError) and "failed to map segment" not in str(error):
            raise
        sys.stderr.write("provision: there is not enough memory to start\n")
        return 7


def _import_the_rest() -> None:
    from provisioner import cli  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
