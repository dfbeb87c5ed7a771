"""The command line: thin commands over library functions, one file each.

Exit codes: 0 done; 1 a gate failed or was inconclusive; 2 bad usage or bad input; 3 backend unavailable here; 130
interrupted.
"""

import signal
import sys
from types import FrameType

import typer

from cdm_export.cli import bench, build, demo, doctor, export, inspect, models, report, run, verify
from cdm_export.cli.console import report_error
from cdm_export.runtimes.errors import CdmExportError, InputError

app = typer.Typer(
    name="cdm-export",
    help="Depth models from PyTorch to verified bundles, and from bundles to metric depth.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("export")(export.command)
app.command("build")(build.command)
app.command("run")(run.command)
app.command("verify")(verify.command)
app.command("bench")(bench.command)
app.command("report")(report.command)
app.command("inspect")(inspect.command)
app.command("models")(models.command)
app.command("doctor")(doctor.command)
app.command("demo")(demo.command)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        import cdm_export

        print(f"cdm-export {cdm_export.__version__}")
        raise typer.Exit


def run_command(arguments: list[str]) -> int:
    """Run one command and return its exit code; no traceback ever reaches a user for an error of theirs."""
    as_json = "--json" in arguments

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # so that temporary files go away on SIGTERM as on Ctrl-C

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), terminate)
    try:
        app(args=arguments, standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except CdmExportError as error:
        report_error(error, as_json)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; that is its right
        return 0
    except OSError as error:  # a full disk, a folder where a file is wanted
        report_error(InputError(f"{error.filename or 'output'}: {error.strerror or error}"), as_json)
        return InputError.exit_code
    return 0
