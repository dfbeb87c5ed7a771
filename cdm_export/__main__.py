"""``cdm-export`` and ``python -m cdm_export``."""

import sys


def main() -> None:
    """Run the command line; the exit code says what kind of end it was."""
    from cdm_export.cli import run_command

    sys.exit(run_command(sys.argv[1:]))


if __name__ == "__main__":
    main()
