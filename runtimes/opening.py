"""The public door: a bundle becomes a pipeline."""

from pathlib import Path

from cdm_export.runtimes.arguments import advice_for_python, check_count, check_meters, check_name, check_path
from cdm_export.runtimes.backends import Backend, load_runtime
from cdm_export.runtimes.bundle import Artifact, Bundle
from cdm_export.runtimes.checkpoint_path import split_checkpoint, with_key
from cdm_export.runtimes.engines import RECORD, find, read_record, why_none
from cdm_export.runtimes.errors import BundleChanged, InputError
from cdm_export.runtimes.hashing import cached_sha256
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.replaced import once_more_when_replaced
from cdm_export.runtimes.selection import Choice, choose


@once_more_when_replaced
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

    What runs is what was checked: when the bundle is replaced while it is opened, all of it is opened again, once.

    Raises BundleError (changed or unreadable bundle), InputError (names), ParityError (only failed artifacts),
    BackendUnavailable (nothing to run it with).
    """
    check_path("bundle", bundle)
    check_name("backend", backend)
    check_name("precision", precision)
    check_count("batch", batch, 1)
    check_count("threads", threads, 0)
    if checkpoint is not None:
        check_path("checkpoint", checkpoint)
    with advice_for_python():
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
    """``open`` after the choice was made. Raises BundleChanged when the bundle is no longer the one chosen from."""
    check_reader(choice.backend, checkpoint)
    contract = bundle.manifest.interface(choice.artifact).contract.batched(choice.batch)
    changed = {name: value for name, value in (("max_depth", max_depth), ("far", far)) if value is not None}
    for name, value in changed.items():
        check_meters(name, value)
    opened: list[DepthPipeline] = []
    try:
        with bundle.steady():
            if choice.artifact is None:
                path = reference_path(bundle, checkpoint)
            else:
                path = executable(bundle, choice.backend, choice.artifact, choice.precision)
            runtime = load_runtime(choice.backend, path, contract, choice.precision, threads)
            opened.append(DepthPipeline(runtime, contract.model_copy(update=changed)))
            if warmup:
                opened[0].warm_up()
    except BaseException:
        for pipeline in opened:
            pipeline.close()
        raise
    return opened[0]


def check_reader(backend: Backend, checkpoint: str | Path | None) -> None:
    """Raise InputError for a checkpoint that nothing would read: it looked as if it had been used."""
    if checkpoint is not None and backend.format != "checkpoint":
        raise InputError(
            f"a checkpoint is for the torch reference: {backend.name} would not read {checkpoint}",
            "Leave it out, or choose --backend torch.",
        )


def executable(bundle: Bundle, backend: Backend, artifact: Artifact, precision: str) -> Path:
    """What a backend opens to run an artifact: the artifact after its hashes were checked, or an engine built from it.

    ``Bundle.steady`` tells whether it is still that once it is open. Raises BundleError, BackendUnavailable where no
    engine fits this machine.
    """
    if not backend.engine:
        return bundle.artifact_file(artifact)
    found = find(bundle, backend, precision)
    if found is None:
        raise why_none(bundle, backend, precision)
    bundle.watch(found.path.parent / RECORD)
    bundle.watch(found.path)
    if read_record(found.path.parent) != found.record:
        raise BundleChanged(f"{found.path} was built anew while it was opened", "Run the same command again.")
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
    path, key = split_checkpoint(Path(checkpoint))
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    bundle.watch(path)
    got = cached_sha256(path)
    if got != provenance.sha256:
        raise InputError(
            f"{path} is not the checkpoint this bundle was made from ({provenance.checkpoint}): sha256 is {got[:12]}…, "
            f"the manifest says {provenance.sha256[:12]}…"
        )
    made_from = split_checkpoint(Path(provenance.checkpoint or ""))[1]
    if key and key != made_from:
        raise InputError(
            f"{path} is the file this bundle was made from, the weights under '{key}' are not "
            f"({provenance.checkpoint})",
            f"Give the file alone: --checkpoint {path}",
        )
    return with_key(path, made_from)
