"""INT8 against the engine that was built, on the device itself: published where it is faster, else dropped."""

from cdm_export.engine.remedies import Attempt, attempts
from cdm_export.progress import Progress
from cdm_export.quantise.guard import Way, compare_speed
from runtimes.backends import Backend
from runtimes.bundle import Bundle, State
from runtimes.cache import write_atomically
from runtimes.engines import RECORD, FoundEngine, find

CHALLENGER = "int8-fp16"
"""Precision that half has to be better than, or give way to."""


def challenger(bundle: Bundle, backend: Backend) -> Attempt | None:
    """The engine to try beside the one there is; None when the bundle holds no INT8 graph that passed its gate."""
    if not any(artefact.precision == CHALLENGER for artefact in bundle.manifest.artefacts):
        return None
    attempt = attempts(bundle, backend, CHALLENGER, remedies=False)[0]
    assert attempt.artefact is not None
    return None if attempt.artefact.state is State.FAILED else attempt


def won_before(bundle: Bundle, backend: Backend) -> list[Attempt]:
    """The challenger where it has beaten what else there is on this machine; else nothing."""
    found = find(bundle, backend, CHALLENGER)
    rival = challenger(bundle, backend)
    return [rival] if rival and found and found.record.speed and found.record.speed.faster else []


def decide(
    bundle: Bundle, backend: Backend, holder: FoundEngine, rival: FoundEngine, progress: Progress
) -> tuple[FoundEngine, str]:
    """Time both, a golden frame of each in turn; the better one, and how it went. The rival's record says so too."""
    ways = [
        Way(backend=backend.name, precision=engine.record.precision, file=engine.path) for engine in (holder, rival)
    ]
    golden = [bundle.file(item.file) for item in bundle.manifest.golden]
    speed = compare_speed(ways, bundle.manifest.contract, golden, progress)
    faster = speed is not None and speed.faster
    state = State.PUBLISHED if faster else State.DROPPED
    rival = FoundEngine(rival.path, rival.record.model_copy(update={"state": state, "speed": speed}))
    write_atomically(rival.path.parent / RECORD, rival.record.model_dump_json(indent=1).encode())
    words = str(speed) if speed is not None else "one of both did not run to the end"
    return (rival if faster else holder), words
