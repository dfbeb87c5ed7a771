"""INT8 against the engine that was built, on the device itself: published where it is faster, else dropped."""

from cdm_export.bench.speed_gate import ExecutionPath, compare_speed
from cdm_export.progress import Progress
from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.bundle import Bundle, State
from cdm_export.runtimes.engine_record import EngineRecord
from cdm_export.runtimes.engines import FoundEngine, find, rejected_here
from cdm_export.tensorrt.fallbacks import Attempt, attempts

INT8_CANDIDATE = "int8-fp16"
"""Precision that half has to be better than, or give path to."""


def int8_candidate(bundle: Bundle, backend: Backend) -> Attempt | None:
    """The engine to try beside the one there is; None when the bundle holds no INT8 graph that passed its gate."""
    if not any(artifact.precision == INT8_CANDIDATE for artifact in bundle.manifest.artifacts):
        return None
    attempt = attempts(bundle, backend, INT8_CANDIDATE, fallbacks=False)[0]
    assert attempt.artifact is not None
    return None if attempt.artifact.state is State.FAILED else attempt


def won_before(bundle: Bundle, backend: Backend) -> list[Attempt]:
    """The INT8 candidate where it has beaten what else there is on this machine; else nothing."""
    found = find(bundle, backend, INT8_CANDIDATE)
    candidate = int8_candidate(bundle, backend)
    return [candidate] if candidate and found and found.record.speed and found.record.speed.faster else []


def decided(bundle: Bundle, backend: Backend) -> bool:
    """Whether this machine knows already what becomes of the INT8 candidate's engine: it won, lost, or failed."""
    found = find(bundle, backend, INT8_CANDIDATE)
    if found is not None and found.record.speed is not None:
        return True
    return any(INT8_CANDIDATE in rejected_here(bundle, backend, state) for state in (State.DROPPED, State.FAILED))


def undecided_engine(bundle: Bundle, backend: Backend) -> FoundEngine | None:
    """The INT8 engine that passed its self-test here and was never compared: an interrupted build left it."""
    found = find(bundle, backend, INT8_CANDIDATE)
    if found is None or found.record.speed is not None or found.record.self_test is None:
        return None
    return found if found.record.self_test.passed else None


def decide(
    bundle: Bundle, backend: Backend, baseline: FoundEngine, candidate: FoundEngine, progress: Progress
) -> tuple[bool, EngineRecord, str]:
    """Time both, a golden frame of each in turn. Returns whether the candidate won, its record, which says so too, and
    how it went. Nothing is written: an interrupt leaves it undecided.
    """
    paths = [
        ExecutionPath(backend=backend.name, precision=engine.record.precision, file=engine.path)
        for engine in (baseline, candidate)
    ]
    golden = [bundle.file(item.file) for item in bundle.manifest.golden]
    speed = compare_speed(paths, bundle.manifest.contract, golden, progress)
    faster = speed is not None and speed.faster
    state = State.PUBLISHED if faster else State.DROPPED
    description = str(speed) if speed is not None else "one of both did not run to the end"
    return faster, candidate.record.model_copy(update={"state": state, "speed": speed}), description
