"""The public door: a bundle becomes a pipeline."""

from pathlib import Path

from cdm_export.runtimes.backends import Backend, load_runtime
from cdm_export.runtimes.bundle import Artifact, Bundle
from cdm_export.runtimes.engines import find, why_none
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.hashing import cached_sha256
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.selection import Choice, choose


def open(
    bundle: str | Path,
    backend: str = "auto",
    precision: str = "auto",
    *,
    batch: int = 1,
    warmup: bool = True,
    threads: int = 0,
    max_depth: float | None = None,
    far: float | None = None,
    checkpoint: str | Path | None = None,
) -> DepthPipeline:
    """Open a bundle for running.

    ``backend`` and ``precision``: names, or ``auto`` for the fastest that passed its parity gate here. ``batch``:
    frames at once, of a bundle exported for that; they go through ``DepthPipeline.many``. ``threads``: 0 for all usable
    CPUs. ``max_depth``, ``far``: meters, instead of the contract's. ``checkpoint``: only for the ``torch``
    reference. The pipeline belongs to the calling thread.

    Raises BundleError (changed or unreadable bundle), InputError (names), ParityError (only failed artifacts),
    BackendUnavailable (nothing to run it with).
    """
    opened = Bundle.open(bundle)
    return open_choice(
        opened,
        choose(opened, backend, precision, batch),
        warmup=warmup,
        threads=threads,
        max_depth=max_depth,
        far=far,
        checkpoint=checkpoint,
    )


def open_choice(
    bundle: Bundle,
    choice: Choice,
    *,
    warmup: bool = True,
    threads: int = 0,
    max_depth: float | None = None,
    far: float | None = None,
    checkpoint: str | Path | None = None,
) -> DepthPipeline:
    """``open`` after the choice was made."""
    contract = bundle.manifest.interface(choice.artifact).contract.batched(choice.batch)
    if choice.artifact is None:
        path = reference_path(bundle, checkpoint)
    else:
        path = executable(bundle, choice.backend, choice.artifact, choice.precision)
    changed = {name: value for name, value in (("max_depth", max_depth), ("far", far)) if value is not None}
    for name, value in changed.items():
        if not value > 0:
            raise InputError(f"{name} must be above 0 meters, got {value}")
    runtime = load_runtime(choice.backend, path, contract, choice.precision, threads)
    pipeline = DepthPipeline(runtime, contract.model_copy(update=changed))
    if warmup:
        try:
            pipeline.warm_up()
        except BaseException:
            pipeline.close()
            raise
    return pipeline


def executable(bundle: Bundle, backend: Backend, artifact: Artifact, precision: str) -> Path:
    """What a backend opens to run an artifact: the artifact after its hashes were checked, or an engine built from it.

    Raises BundleError, BackendUnavailable where no engine fits this machine.
    """
    if not backend.engine:
        return bundle.artifact_file(artifact)
    found = find(bundle, backend, precision)
    if found is None:
        raise why_none(bundle, backend, precision)
    return found.path


def reference_path(bundle: Bundle, checkpoint: str | Path | None) -> Path:
    """What the PyTorch reference opens: the checkpoint after its sha256 was compared, or a bundle of seeded weights."""
    provenance = bundle.manifest.provenance
    if checkpoint is None:
        if provenance.random_weights is not None:
            return bundle.path
        raise InputError(
            f"the torch reference of {bundle.path} needs the checkpoint it was made from ({provenance.checkpoint})",
            "Give it with --checkpoint CKPT.",
        )
    path = Path(checkpoint)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    got = cached_sha256(path)
    if got != provenance.sha256:
        raise InputError(
            f"{path} is not the checkpoint this bundle was made from ({provenance.checkpoint}): sha256 is {got[:12]}…, "
            f"the manifest says {provenance.sha256[:12]}…"
        )
    return path
