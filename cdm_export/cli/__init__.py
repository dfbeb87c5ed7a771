"""The command line: thin commands over library functions, one file each.

Exit codes: 0 done; 1 a gate failed or was inconclusive; 2 bad usage or bad input; 3 backend unavailable here; 130
interrupted.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

import typer

from cdm_export.cli.commands import Commands
from cdm_export.cli.console import report_error
from cdm_export.cli.terminal import prepare_streams, say
from cdm_export.runtimes.errors import CdmExportError, InputError, from_os_error
from cdm_export.runtimes.stopping import INTERRUPTED, stop_by_exception
from cdm_export.runtimes.telemetry import switch_off
from cdm_export.runtimes.temporary import clear_abandoned_temporary

app = typer.Typer(
    name="cdm-export",
    cls=Commands,
    help="Depth models from PyTorch to verified bundles, and from bundles to metric depth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        import cdm_export

        say(f"cdm-export {cdm_export.__version__}")
        raise typer.Exit


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; no traceback ever reaches a user for an error of theirs."""
    as_json = "--json" in arguments
    prepare_streams()
    switch_off()
    try:
        stop_by_exception()
        clear_abandoned_temporary()
        _check_empty(arguments)
        try:
            # Not standalone, the parser's own errors come here: with --json they are a document like all others.
            code = app(args=arguments, standalone_mode=not as_json)
            return code if isinstance(code, int) else 0
        finally:
            sys.stdout.flush()  # what does not fit there fails here, not after everything
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except CdmExportError as error:
        report_error(error, as_json)
        return error.exit_code
    except typer.Abort:
        return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop_output()  # its reader has gone; that is its right
        return 0
    except OSError as error:  # a full disk, a folder where a file is wanted
        _drop_output()
        report_error(from_os_error(error, "output"), as_json)
        return InputError.exit_code
    except Exception as error:
        if not hasattr(error, "format_message"):  # of the parser: Typer brings a copy of Click, and so its classes
            raise
        report_error(InputError(error.format_message(), "See: cdm-export --help"), as_json)
        return InputError.exit_code


def _check_empty(arguments: list[str]) -> None:
    """An empty argument is a variable that was not set: taken for a path it would mean the current folder."""
    for place, argument in enumerate(arguments):
        if argument and not (argument.startswith("--") and argument.endswith("=")):
            continue
        option = argument.rstrip("=") or next((one for one in arguments[place - 1 : place] if one[:1] == "-"), "")
        raise InputError(
            f"{option} is given nothing" if option else "an argument is empty",
            "Is a variable in the command not set? Leave the argument out, or give it a value.",
        )


def _drop_output() -> None:
    """Where standard output takes no more, what is left of it goes nowhere, instead of failing again at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError), Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
