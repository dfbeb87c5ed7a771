"""Rich's console with every string made visible; apart from ``terminal.py`` because loading Rich takes its time."""

from typing import Any

from rich.console import Console
from rich.text import Text

from cdm_export.cli.terminal import visible


class EscapingConsole(Console):
    """Every string Rich shows, in a table too, is made text in ``render_str``."""

    def render_str(self, text: str, **how: Any) -> Text:
        """``Console.render_str`` of what is safe to show."""
        return super().render_str(visible(text, lines=True), **how)
