"""Which backend and artefact ``auto`` means: only what passed, the fastest measured here first."""

from dataclasses import dataclass

from runtimes import sidecar
from runtimes.backends import BACKENDS, Backend, get_backend
from runtimes.bundle import Artefact, Bundle, State, Verdict
from runtimes.errors import BackendUnavailable, InputError, ParityError, did_you_mean


@dataclass(frozen=True)
class Choice:
    """What will run, and why it may."""

    backend: Backend
    """How it runs."""
    artefact: Artefact | None
    """What runs; None for the PyTorch reference."""
    verdict: Verdict | None
    """The parity verdict it runs under; None when this pair was never verified."""
    local: bool
    """Whether the verdict was made on this machine."""

    def __str__(self) -> str:
        precision = self.artefact.precision if self.artefact else "fp32"
        if self.backend.format == "checkpoint":
            return f"{self.backend.name} {precision}, the reference itself"
        if self.verdict is None:
            return f"{self.backend.name} {precision}, parity not verified (cdm-export verify does it)"
        where = "on this machine" if self.local else "where the bundle was made"
        return f"{self.backend.name} {precision}, parity {self.verdict} {where}"


def choose(bundle: Bundle, backend: str = "auto", precision: str = "auto") -> Choice:
    """Pick what runs.

    Asked for by name, an artefact must not have failed; ``auto`` also wants a passed verdict, and takes reduced
    precision on a CPU only when it was verified on this machine. Raises InputError for unknown names, ParityError
    when all that could run has failed, BackendUnavailable when nothing is installed.
    """
    wanted = [get_backend(backend)] if backend != "auto" else list(BACKENDS.values())
    known = sorted({artefact.precision for artefact in bundle.manifest.artefacts})
    if precision != "auto" and precision not in known:
        raise InputError(f"this bundle has no {precision} artefact. {did_you_mean(precision, ['auto', *known])}")
    if backend != "auto" and wanted[0].format == "checkpoint":
        return Choice(wanted[0], None, None, False)
    locals_ = sidecar.load(bundle)
    failed: list[str] = []
    options: list[tuple[float, Choice]] = []
    for candidate in wanted:
        for artefact in bundle.manifest.artefacts:
            if artefact.format != candidate.format or artefact.precision not in candidate.precisions:
                continue
            if precision not in ("auto", artefact.precision):
                continue
            local = locals_.get((candidate.name, artefact.precision))
            verdict = local.verdict if local else artefact.verdict(candidate.name)
            if artefact.state is State.FAILED or (verdict is not None and verdict.verdict != "passed"):
                failed.append(f"{candidate.name} {artefact.precision}: {verdict or artefact.state.value}")
                continue
            choice = Choice(candidate, artefact, verdict, local is not None)
            if backend == "auto" and not _eligible(choice):
                continue
            measured = local.p50_ms if local and local.p50_ms is not None else float("inf")
            options.append((measured, choice))
    if options:
        return min(options, key=lambda option: option[0])[1]  # ties: the order of BACKENDS
    if failed:
        raise ParityError(
            f"{bundle.path}: everything that could run here failed its parity gate: {'; '.join(failed)}",
            f"Look at the figures with: cdm-export verify {bundle.path}",
        )
    if backend != "auto":
        raise BackendUnavailable(f"{bundle.path} holds no artefact that backend '{backend}' can run")
    raise BackendUnavailable(
        f"{bundle.path}: no backend for it is installed here", "Add one with: pip install 'cdm-export[cpu]'"
    )


def _eligible(choice: Choice) -> bool:
    """What ``auto`` may take without being asked for by name."""
    artefact = choice.artefact
    if artefact is None or artefact.state is not State.PUBLISHED or not choice.backend.installed:
        return False
    if choice.verdict is None or choice.backend.device != "cpu":
        return choice.local  # never verified, or verified on another device
    return choice.local or artefact.precision == "fp32"
