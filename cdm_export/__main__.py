"""``cdm-export`` and ``python -m cdm_export``. Signals are looked after before anything large is imported."""

import sys

from cdm_export.runtimes.stopping import stop_at_once


def main() -> None:
    """Run the command line; the exit code says what kind of end it was."""
    stop_at_once()
    from cdm_export.cli import run_command

    code = run_command(sys.argv[1:])
    stop_at_once()
    sys.exit(code)


if __name__ == "__main__":
    main()
