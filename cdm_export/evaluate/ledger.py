"""What an evaluation found so far, so that one that was killed after hours goes on where it was."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from cdm_export.evaluate.judge import Row
from cdm_export.runtimes.cache import cache_dir


class Ledger:
    """One line of JSON per judged image, in the cache; its name says of what, so another question is another file.

    A line that was half written when the process died is not read. Where the cache cannot be written the evaluation
    goes on, and cannot be resumed.
    """

    def __init__(self, *of: str) -> None:
        digest = hashlib.sha256(json.dumps(of).encode()).hexdigest()[:24]
        self._path = cache_dir() / "evaluations" / f"{digest}.jsonl"

    def rows(self) -> dict[str, Row]:
        """Rows of an evaluation that did not end, by image."""
        rows: dict[str, Row] = {}
        with contextlib.suppress(OSError):
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                    read = json.loads(line)
                    rows[str(read["image"])] = {
                        str(region): {str(name): float(value) for name, value in row.items()}
                        for region, row in read["row"].items()
                    }
        return rows

    def add(self, image: str, row: Row) -> None:
        """Another image is done."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # The first line break ends what a process that died may have left half written.
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps({"image": image, "row": row}) + "\n")

    def close(self) -> None:
        """The evaluation ended: there is nothing to go on with."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def state_of(files: Sequence[Path]) -> str:
    """Changes when a file is written, replaced or gone; cheap, since it reads none of them."""
    told = []
    for file in files:
        with contextlib.suppress(OSError):
            stat = file.stat()
            told.append((str(file.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()
