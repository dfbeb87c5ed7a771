"""What is known to be wrong: of this bundle's artifacts and engines, of the libraries and the machine that run them.

Nothing is judged here: states and verdicts say why themselves, faults of TensorRT come from
``engine/known_issues.py`` and everything about the machine from ``doctor``.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from cdm_export.doctor.machine import REDUCED_PRECISION, examine
from cdm_export.runtimes import engines, local_results
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Bundle, State
from cdm_export.runtimes.engine_record import Machine
from cdm_export.runtimes.nvidia import gpu_or_none
from cdm_export.runtimes.signing import FOREIGN
from cdm_export.tensorrt.known_issues import KNOWN_ISSUES
from cdm_export.tensorrt.record import machine_of


@dataclass(frozen=True)
class Issue:
    """One thing to know before trusting or blaming a figure."""

    subject: str
    """Artifact, engine, library or part of the machine."""
    fault: str
    """What is wrong, and how it is known."""
    workaround: str = ""
    """What to do; empty when nothing is."""


def known_issues(bundle: Bundle) -> list[Issue]:
    """Everything known of a bundle here, nearest to the bundle first."""
    return [
        *_artifacts(bundle),
        *_verdicts_here(bundle),
        *_foreign(bundle),
        *_engines(bundle),
        *_tensorrt_here(bundle),
        *_machine(),
    ]


def tensorrt_faults(machine: Machine, precisions: set[str], operators: Collection[str] = ()) -> list[Issue]:
    """Known faults of a TensorRT release in the precisions and with the operators that a bundle has."""
    return [
        Issue(
            f"TensorRT {machine.version}, {', '.join(concerned)}",
            f"{issue.fault}; known since {issue.first} ({issue.source})",
            issue.workaround,
        )
        for issue in KNOWN_ISSUES
        if (concerned := sorted(name for name in precisions if issue.concerns(machine, name, operators)))
    ]


_STATES = {
    State.FAILED: "failed its gate, and is never run",
    State.DROPPED: "accurate, but not worth having: left out of every choice",
}


def _artifacts(bundle: Bundle) -> Iterator[Issue]:
    for artifact in bundle.manifest.artifacts:
        if artifact.state in _STATES:
            broken = [f"{one.backend}: {one.reason}" for one in artifact.verdicts if not one.passed]
            speed = artifact.quantization.speed if artifact.quantization else None
            slow = [str(speed)] if artifact.state is State.DROPPED and speed else []
            yield Issue(artifact.name, "; ".join([_STATES[artifact.state], *slow, *broken]))
    for dropped in bundle.manifest.dropped:
        outcome = "failed its gate" if dropped.failed else "accurate, but not worth having"
        yield Issue(dropped.name, f"{outcome}, and is not in the bundle: {dropped.reason}")


def _verdicts_here(bundle: Bundle) -> Iterator[Issue]:
    for batch in bundle.manifest.batches:
        for local in local_results.load(bundle, batch).values():
            if not local.verdict.passed:
                fault = f"{local.verdict.verdict} on this machine: {local.verdict.reason}"
                yield Issue(f"{local.backend} {local.label}", fault, "auto leaves it alone.")


def _foreign(bundle: Bundle) -> Iterator[Issue]:
    for one in local_results.foreign(bundle):
        name = one.path.relative_to(bundle.path).as_posix()
        command = "build" if one.path.name == engines.PLAN else "verify"
        yield Issue(name, f"{one.what}; {FOREIGN}", f"Make your own: cdm-export {command} {bundle.path}")


def _engines(bundle: Bundle) -> Iterator[Issue]:
    for record in (engine.record for engine in engines.scan(bundle) if engine.own):
        if record.state is State.FAILED:
            why = record.self_test.reason if record.self_test else "it does not run"
            yield Issue(f"engine {record.precision}, {record.machine}", f"failed its self-test: {why}")


def _tensorrt_here(bundle: Bundle) -> Iterator[Issue]:
    """Of the release that built an engine, and of the one that would build the next."""
    made = {artifact.precision for artifact in bundle.manifest.artifacts if artifact.format == "onnx"}
    precisions: set[str] = {
        name for name in BACKENDS["tensorrt"].precisions if BACKENDS["tensorrt"].runs_for(name, made)
    }
    machines = [engine.record.machine for engine in engines.scan(bundle) if engine.own]
    if version := BACKENDS["tensorrt"].version:
        machines.append(machine_of("tensorrt", version, gpu_or_none()))
    graphs = [artifact.graph for artifact in bundle.manifest.artifacts if artifact.graph is not None]
    operators = {operator for graph in graphs for operator in graph.nodes}
    faults = (issue for machine in machines for issue in tensorrt_faults(machine, precisions, operators))
    yield from dict.fromkeys(faults)


def _machine() -> Iterator[Issue]:
    for finding in examine():
        if finding.status == "problem" or (finding.subject == REDUCED_PRECISION and finding.status != "ok"):
            yield Issue(finding.subject, finding.detail, finding.command)
