"""The commands by name. Each is loaded when it is run: the list of all is there before NumPy or pydantic are."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from cdm_export.runtimes.errors import InputError, did_you_mean

COMMANDS = {
    "export": "Checkpoint -> verified bundle.",
    "build": "Engine for this device, tested on the golden frames; for RTX on any machine, also without a GPU.",
    "run": "Run one frame or a folder of frames: meters, 16-bit millimeters and a picture.",
    "verify": "Parity gate on every backend that can run here; exit code 1 when one fails.",
    "bench": "Latency of every backend that can run here: fresh processes, warm-up, frames in turn, percentiles.",
    "evaluate": "Every backend and precision against ground truth: what the export cost in AbsRel, D1 or EPE.",
    "report": "One self-contained HTML page: latency, parity, trade-offs, artifacts, pictures, environment.",
    "inspect": "What is inside a bundle: contract, artifacts, verdicts, provenance; nothing is run.",
    "models": "Families and variants that can be exported.",
    "doctor": "What this machine can build and run, and the exact command that adds the rest.",
    "demo": "The main job on an embedded default: export, verify, refine a real frame.",
}
"""Command, and the sentence that stands beside it in the list: the first paragraph of its own help."""


class Commands(TyperGroup):
    """The command line's group: knows its commands' names, and loads the module of the one that is wanted."""

    _listing = False

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, loaded; its name and sentence alone while all are listed; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        if self._listing:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name])
        alone = typer.Typer(add_completion=False)
        alone.command(cmd_name, context_settings={"help_option_names": ["-h", "--help"]})(
            import_module(f"cdm_export.cli.{cmd_name}").command
        )
        return get_command(alone)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that ``args`` begin with. Raises InputError, naming the closest, for an unknown one."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise InputError(f"there is no command '{args[0]}'. {did_you_mean(args[0], list(COMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The list of all commands, which loads none of them."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False
