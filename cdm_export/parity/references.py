"""What a verification compares with: stored outputs of PyTorch, or outputs that are made now."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdm_export.parity.check_backend import check_backend
from cdm_export.parity.golden import ReferenceFrame, prepare_frames, save_output
from cdm_export.parity.image_input import fit_frame
from cdm_export.parity.request import VerifyRequest
from cdm_export.progress import Progress
from cdm_export.reference_model.registry import family_installed, require_family
from cdm_export.runtimes.backends import BACKENDS
from cdm_export.runtimes.bundle import Bundle, GraphInterface
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import BackendUnavailable, InputError, ParityError
from cdm_export.runtimes.opening import reference_path
from cdm_export.runtimes.selection import choose
from cdm_export.runtimes.sources import MirroredSource, open_source
from cdm_export.runtimes.worker import Job, run_job


@dataclass(frozen=True)
class References:
    """Frames with their reference output."""

    frames: list[ReferenceFrame]
    """On disk, see ``golden.py``."""
    description: str
    """What made them, in words."""
    made_by: str | None = None
    """Backend that made them just now; None for those stored in the bundle."""

    @property
    def pytorch(self) -> bool:
        """Whether PyTorch made them, here or where the bundle was made; only then is a verdict worth remembering."""
        return self.made_by in (None, "torch")


def references_of(
    bundle: Bundle, interface: GraphInterface, request: VerifyRequest, folder: Path, progress: Progress
) -> References:
    """Frames of an interface with their reference output, and what made it."""
    golden = golden_frames(bundle, interface)
    if request.frames is None and request.checkpoint is None:
        return References(golden, "PyTorch outputs stored in the bundle")
    if request.frames is None:
        return _computed(bundle, interface, request, golden, folder, progress)
    prepared = prepared_frames(bundle, interface.contract, request, folder, progress)
    return _computed(bundle, interface, request, prepared, folder, progress)


def prepared_frames(
    bundle: Bundle, contract: ModelContract, request: VerifyRequest, folder: Path, progress: Progress
) -> list[ReferenceFrame]:
    """The frames of the request's own source with the inputs of ``contract``; as many as the largest batch takes.

    Raises InputError for a source without frames, or with one that cannot be used.
    """
    assert request.frames is not None
    source = open_source(
        request.frames,
        depth_scale=request.depth_scale,
        camera=contract.camera,
        fit=request.fit,
        needs_depth=contract.reads("depth"),
        needs_right=contract.reads("right"),
    )
    if len(source) == 0:
        raise InputError(f"'{request.frames}' holds no frames")
    filled = MirroredSource(source, bundle.manifest.batches[-1])
    if len(filled) > len(source):
        progress.note(f"a batch of {bundle.manifest.batches[-1]} is verified on {filled.description}")
    return prepare_frames(filled, contract, folder / "frames", progress)


def golden_frames(bundle: Bundle, interface: GraphInterface) -> list[ReferenceFrame]:
    """The frames of an interface that lie in the bundle."""
    return [ReferenceFrame(item.name, bundle.file(item.file)) for item in interface.golden]


def _computed(
    bundle: Bundle,
    interface: GraphInterface,
    request: VerifyRequest,
    frames: list[ReferenceFrame],
    folder: Path,
    progress: Progress,
) -> References:
    """Reference outputs made now: PyTorch where the weights are at hand, else ``fp32.onnx`` on ONNX Runtime.

    Either is fed floats, whatever the interface.
    """
    contract, provenance = bundle.manifest.contract, bundle.manifest.provenance
    at_hand = request.checkpoint is not None or provenance.random_weights is not None
    if request.checkpoint is None and not family_installed(contract.model):
        at_hand = False  # the graph is the reference then, and what is said of it says so
    if at_hand and BACKENDS["torch"].installed:
        require_family(contract.model, provenance.package)
        backend, path = BACKENDS["torch"], reference_path(bundle, request.checkpoint)
        description = "eager float32 PyTorch"
    elif request.checkpoint is not None:
        raise BackendUnavailable(
            "--checkpoint compares with PyTorch, which is not installed", BACKENDS["torch"].install
        )
    else:
        choice = choose(bundle, "onnxruntime", "fp32")
        assert choice.artifact is not None
        backend, path = choice.backend, bundle.artifact_file(choice.artifact)
        stored = "PyTorch outputs stored in the bundle"
        golden = check_backend(
            backend.name,
            path,
            contract,
            "fp32",
            golden_frames(bundle, bundle.manifest.interface(None)),
            stored,
            progress,
        )
        if not golden.verdict.passed:
            raise ParityError(
                f"ONNX Runtime cannot be the reference here, it disagrees with PyTorch itself: {golden.verdict}",
                f"Look closer with: cdm-export verify {bundle.path} --backend onnxruntime",
            )
        description = f"fp32.onnx on ONNX Runtime (itself against PyTorch on the golden frames: {golden.verdict})"
    progress.stage(f"reference: {description}", len(frames))
    outputs = [folder / f"reference-{index:03d}.npy" for index in range(len(frames))]
    job = Job(
        backend=backend.name,
        path=str(path),
        contract=contract,
        precision="fp32",
        threads=request.threads,
        frames=tuple(str(fit_frame(frame, contract, folder).path) for frame in frames),
        outputs=tuple(str(output) for output in outputs),
    )
    run_job(job, progress.step)
    references = []
    for index, (frame, output) in enumerate(zip(frames, outputs, strict=True)):
        path = folder / f"reference-{index:03d}.npz"
        save_output(path, frame.path, interface.contract, np.load(output, allow_pickle=False))
        references.append(ReferenceFrame(frame.name, path))
    return References(references, description, backend.name)
