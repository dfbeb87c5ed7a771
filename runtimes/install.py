"""The command that adds an extra of this package to the environment it runs in: one that works where it is printed."""

import functools
import importlib.metadata
import json
import shlex
from pathlib import Path
from urllib.parse import unquote, urlparse

DISTRIBUTION = "cdm-export"


def install(*extras: str) -> str:
    """``pip install ...`` for one or more extras; for none, of the package itself.

    Where the package was installed from a checkout that is still there, the command names it: the package is on no
    index. Elsewhere it names the distribution.
    """
    suffix = f"[{','.join(extras)}]" if extras else ""
    checkout, editable = _checkout()
    if checkout is None:
        return f"pip install {shlex.quote(DISTRIBUTION + suffix)}"
    return f"pip install {'-e ' if editable else ''}{shlex.quote(f'{checkout}{suffix}')}"


@functools.cache
def _checkout() -> tuple[Path | None, bool]:
    """Folder the package was installed from, and whether it is imported from there; (None, False) when it is gone."""
    root = Path(__file__).resolve().parents[1]
    if (root / "pyproject.toml").is_file():
        return root, True
    try:
        # PEP 610: what pip writes beside a package that came from a folder.
        text = importlib.metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None, False
    origin = json.loads(text) if text else {}
    folder = Path(unquote(urlparse(str(origin.get("url", ""))).path))
    if "dir_info" in origin and (folder / "pyproject.toml").is_file():
        return folder, bool(origin["dir_info"].get("editable"))
    return None, False
