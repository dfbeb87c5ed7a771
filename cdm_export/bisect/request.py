"""What a bisect looks at when it is asked for by ``verify --bisect``: which pair, and which frame."""

from pathlib import Path

from cdm_export.parity.golden import ReferenceFrame
from cdm_export.parity.references import golden_frames, prepared_frames
from cdm_export.parity.request import VerifyRequest
from cdm_export.progress import Progress
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.selection import interface_of


def first_frame(
    bundle: Bundle, candidate: tuple[str, str], request: VerifyRequest, folder: Path, progress: Progress
) -> ReferenceFrame:
    """The first golden frame as ``candidate`` is fed, or the first of the request's source, prepared in ``folder``."""
    interface = interface_of(bundle, *candidate)
    if request.frames is None:
        return golden_frames(bundle, interface)[0]
    return prepared_frames(bundle, interface.contract, request, folder, progress)[0]


def bisect_pairs(
    bundle: Bundle, request: VerifyRequest, against: str | None
) -> tuple[tuple[str, str], tuple[str, str]]:
    """Candidate and reference of a bisect, each backend and precision.

    By default the candidate is ONNX Runtime on the bundle's FP16 graph, or its FP32 graph where there is none; the
    reference is PyTorch where the weights are at hand, else ``fp32.onnx`` on ONNX Runtime.
    """
    backend = "onnxruntime" if request.backend == "auto" else request.backend
    made = {artifact.precision for artifact in bundle.manifest.artifacts}
    precision = ("fp16" if "fp16" in made else "fp32") if request.precision == "auto" else request.precision
    if against is not None:
        name, separator, typed = against.partition(":")
        if not separator:
            raise InputError(f"--against wants BACKEND:PRECISION, got '{against}'", "For example --against torch:fp32")
        return (backend, precision), (name, typed)
    weights = request.checkpoint is not None or bundle.manifest.provenance.random_weights is not None
    return (backend, precision), ("torch" if weights else "onnxruntime", "fp32")
