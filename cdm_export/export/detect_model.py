"""Which model a checkpoint belongs to, found in a process of its own: PyTorch never enters the exporting one."""

from pathlib import Path

from cdm_export.runtimes.contract import Record
from cdm_export.runtimes.isolated import run_isolated, serve


class DetectJob(Record):
    """What to look at."""

    checkpoint: str
    """Checkpoint file."""


class Detected(Record):
    """What it is."""

    model: str
    """Registry name."""


def detect_model(checkpoint: Path) -> str:
    """Registry name read off the shapes.

    Raises CheckpointError when the file is unreadable, of no model known here, or of one that shapes cannot tell.
    """
    job = DetectJob(checkpoint=str(checkpoint))
    what = "PyTorch, reading the checkpoint,"
    return Detected.model_validate(run_isolated(__name__, job, what, lambda message: None)).model


def _work(text: str) -> Detected:
    from cdm_export.reference_model.checkpoint import detect_variant, read_checkpoint

    path = Path(DetectJob.model_validate_json(text).checkpoint)
    return Detected(model=detect_variant(read_checkpoint(path)))


if __name__ == "__main__":
    serve(_work)
