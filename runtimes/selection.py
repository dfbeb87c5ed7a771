"""Which backend and artifact ``auto`` means: what passed; reduced precision only where it is faster beyond doubt."""

from dataclasses import dataclass

from cdm_export.runtimes import engines, local_results
from cdm_export.runtimes.backends import BACKENDS, Backend, get_backend, who_runs
from cdm_export.runtimes.bundle import Artifact, Bundle, GraphInterface, State, Verdict
from cdm_export.runtimes.contract import execution_name
from cdm_export.runtimes.errors import BackendUnavailable, InputError, ParityError, did_you_mean
from cdm_export.runtimes.fastest import Candidate, fastest
from cdm_export.runtimes.install import install
from cdm_export.runtimes.signing import FOREIGN


@dataclass(frozen=True)
class Choice:
    """What will run, and why it may."""

    backend: Backend
    """How it runs."""
    artifact: Artifact | None
    """What runs; None for the PyTorch reference."""
    precision: str
    """What it computes in; differs from the artifact's where it is a hint to the library."""
    verdict: Verdict | None
    """The parity verdict it runs under; None when this pair was never verified."""
    local: bool
    """Whether the verdict was made on this machine."""

    @property
    def batch(self) -> int:
        """Frames at once."""
        return self.artifact.batch if self.artifact else 1

    @property
    def name(self) -> str:
        """Backend, precision, and the batch where it is not 1."""
        return f"{self.backend.name} {execution_name(self.precision, self.batch)}"

    def __str__(self) -> str:
        name = self.name
        if self.backend.format == "checkpoint":
            return f"{name}, the reference itself"
        if self.verdict is None:
            return f"{name}, parity not verified (cdm-export verify does it)"
        where = "on this machine" if self.local else "where the bundle was made"
        return f"{name}, parity {self.verdict} {where}"


def executions(bundle: Bundle, backend: Backend, batch: int = 1) -> list[tuple[Artifact, str]]:
    """What of a bundle a backend can run: artifact and the precision it is computed in. Engines take one frame."""
    if backend.engine and batch != 1:
        return []
    made: dict[str, Artifact] = {
        artifact.precision: artifact
        for artifact in bundle.manifest.artifacts
        if artifact.format == backend.format and artifact.batch == batch
    }
    typed = {precision: backend.runs_for(precision, made) for precision in backend.precisions}
    return [(made[name], precision) for precision, name in typed.items() if name is not None]


def interface_of(bundle: Bundle, backend: str, precision: str) -> GraphInterface:
    """How what a backend computes in a precision is fed; the bundle's interface where it computes nothing of it."""
    runs = {executed: artifact for artifact, executed in executions(bundle, get_backend(backend))}
    return bundle.manifest.interface(runs.get(precision))


def check_precision(bundle: Bundle, precision: str) -> None:
    """Raise InputError, naming the closest, unless ``auto`` or something that a backend computes of this bundle."""
    known = sorted({runnable for backend in BACKENDS.values() for _, runnable in executions(bundle, backend)})
    if precision not in ("auto", *known):
        raise InputError(f"this bundle has no {precision} artifact. {did_you_mean(precision, ['auto', *known])}")


def choose(bundle: Bundle, backend: str = "auto", precision: str = "auto", batch: int = 1) -> Choice:
    """Pick what runs, of what takes ``batch`` frames at once.

    Asked for by name, an artifact must not have failed; ``auto`` also wants a passed verdict and the bundle's own
    interface. Unless both are asked for by name, reduced precision is taken only where it was verified on this machine.

    Between what is left ``fastest`` decides: FP32 unless ``bench`` has shown here that something else is faster beyond
    doubt; ``verify``, which measures one after another, never makes ``auto`` leave FP32. An engine that was built and
    self-tested on this device was asked for by building it, and goes before what runs the artifacts themselves.
    Results that came with the bundle from another machine count for nothing.

    Raises InputError for unknown names, ParityError when all that could run has failed, BackendUnavailable when nothing
    is installed.
    """
    wanted = [get_backend(backend)] if backend != "auto" else list(BACKENDS.values())
    check_precision(bundle, precision)
    if batch not in bundle.manifest.batches:
        there = ", ".join(map(str, bundle.manifest.batches))
        raise InputError(
            f"{bundle.path} takes {there} frame(s) at once, not {batch}", f"Export it again with --batch {batch}."
        )
    if backend != "auto" and wanted[0].format == "checkpoint":
        return Choice(wanted[0], None, "fp32", None, False)
    locals_ = local_results.load(bundle, batch)
    speeds = local_results.load_speeds(bundle, batch)
    failed: list[str] = []
    unbuilt = False
    options: list[Candidate[Choice]] = []
    for candidate in wanted:
        for artifact, executed in executions(bundle, candidate, batch):
            if precision not in ("auto", executed):
                continue
            if precision == "auto" and artifact.interface is not None:
                continue  # what its inputs lose is no part of its gate: only by name
            engine = None
            if candidate.engine:
                engine = engines.find(bundle, candidate, executed)
                if engine is None:
                    unbuilt = True
                    continue
                if precision == "auto" and engine.record.undecided:
                    continue  # it may be slower than what it has to beat: build decides
            local = locals_.get((candidate.name, executed))
            made = artifact.verdict(candidate.name) if executed == artifact.precision else None
            verdict = local.verdict if local else made
            if artifact.state is State.FAILED or (verdict is not None and not verdict.passed):
                failed.append(f"{candidate.name} {executed}: {verdict or artifact.state.value}")
                continue
            choice = Choice(candidate, artifact, executed, verdict, local is not None)
            if "auto" in (backend, precision) and executed != "fp32" and not choice.local:
                continue
            if backend == "auto" and not _eligible(choice):
                continue
            key = (candidate.name, executed)
            options.append(
                Candidate(
                    choice,
                    key=key,
                    engine=engine is not None,
                    p50_ms=local.p50_ms if local else None,
                    won=engine is not None and engine.record.speed is not None and engine.record.speed.faster,
                    ratios=speeds[key].by_path if key in speeds else {},
                )
            )
    if options:
        return fastest(options).what
    if failed:
        raise ParityError(
            f"{bundle.path}: everything that could run here failed its parity gate: {'; '.join(failed)}",
            f"Look at the figures with: cdm-export verify {bundle.path}",
        )
    if backend != "auto" and unbuilt:
        raise engines.why_none(bundle, wanted[0], precision)
    if backend != "auto" and precision != "auto":
        raise BackendUnavailable(
            f"backend '{backend}' does not run {precision} of {bundle.path}; it runs "
            + (", ".join(runnable for _, runnable in executions(bundle, wanted[0], batch)) or "nothing of it"),
            who_runs(precision),
        )
    if backend != "auto":
        raise BackendUnavailable(f"{bundle.path} holds no artifact that backend '{backend}' can run")
    if unbuilt and all(known.engine for known in BACKENDS.values() if precision in known.precisions):
        raise BackendUnavailable(
            f"{bundle.path}: {precision} is computed by engines only, and none was built here",
            f"Build one: cdm-export build {bundle.path} --target tensorrt --precision {precision}",
        )
    if precision not in ("auto", "fp32"):
        came = [one for one in local_results.foreign(bundle) if f" {precision}" in one.what]
        raise BackendUnavailable(
            f"{bundle.path}: no backend here has passed the {precision} gate yet"
            + (f"; {came[0].path} is {FOREIGN}" if came else ""),
            f"Let it: cdm-export verify {bundle.path} --precision {precision}",
        )
    raise BackendUnavailable(f"{bundle.path}: no backend for it is installed here", f"Add one with: {install('cpu')}")


def _eligible(choice: Choice) -> bool:
    """What ``auto`` may take without being asked for by name."""
    artifact = choice.artifact
    if artifact is None or choice.backend.verifies_only or not choice.backend.installed:
        return False
    if artifact.state is not State.PUBLISHED and not (artifact.state is State.CANDIDATE and choice.local):
        return False  # a candidate has to be verified on its own device first
    if choice.verdict is None or choice.backend.device != "cpu":
        return choice.local  # never verified, or verified on another device
    return True
