"""Two executions of a bundle, compared stage by stage on one frame."""

from importlib.util import find_spec
from pathlib import Path

from cdm_export.bisect.compare import comparable, evaluator
from cdm_export.bisect.coreml_probe import CoremlProbe
from cdm_export.bisect.coreml_worker import OperationFound
from cdm_export.bisect.onnx_probe import OnnxProbe
from cdm_export.bisect.probe import Probe
from cdm_export.bisect.report import BisectReport, make_report
from cdm_export.bisect.search import STRATEGIES
from cdm_export.bisect.stages import section_of, stages_in_order
from cdm_export.bisect.torch_probe import TorchProbe
from cdm_export.parity.gates import GATES
from cdm_export.parity.golden import ReferenceFrame
from cdm_export.parity.image_input import fit_frame
from cdm_export.progress import Progress
from cdm_export.reference_model.registry import get_variant, require_family
from cdm_export.reference_model.sections import Section
from cdm_export.runtimes.backends import get_backend, who_runs
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import QUANTIZED
from cdm_export.runtimes.coreml_target import TARGETS
from cdm_export.runtimes.errors import BackendUnavailable, InputError, did_you_mean
from cdm_export.runtimes.graph_precision import PrecisionPlan
from cdm_export.runtimes.install import install
from cdm_export.runtimes.nvidia import find_gpu
from cdm_export.runtimes.opening import reference_path
from cdm_export.runtimes.selection import executions, interface_of
from cdm_export.runtimes.temporary import TemporaryFolder


def bisect_bundle(
    bundle: Bundle,
    candidate: tuple[str, str],
    reference: tuple[str, str],
    frame: ReferenceFrame,
    progress: Progress,
    *,
    strategy: str = "auto",
    checkpoint: Path | None = None,
    threads: int = 0,
) -> BisectReport:
    """Find where ``candidate`` leaves the tolerance of its precision; both are backend and precision.

    ``strategy``: one of ``STRATEGIES``. ``checkpoint``: for ``torch``, unless the bundle's weights are seeded. An
    artifact that failed its gate is looked into like any other; a stage that is outside is not an error here but a
    finding.

    Raises InputError (names, checkpoint), BackendUnavailable (backend or precision not to be had), ParityError (stages
    that cannot be compared although both probes announced them), BackendCrashed.
    """
    if candidate == reference:
        raise InputError(f"{' '.join(candidate)} compared with itself would always pass", "Name two different ones.")
    if strategy not in STRATEGIES:
        raise InputError(f"unknown strategy '{strategy}'. {did_you_mean(strategy, list(STRATEGIES))}")
    if find_spec("onnx") is None:
        raise BackendUnavailable("looking into a graph needs the package 'onnx'", f"Add it with: {install('export')}")
    contract = bundle.manifest.contract
    sections = _sections(contract.model)
    output, tolerance = contract.output.name, GATES[candidate[1]].p99
    with TemporaryFolder() as temporary:
        first, second = (
            _probe(bundle, pair, frame, _subfolder(temporary, role), checkpoint, threads)
            for role, pair in (("reference", reference), ("candidate", candidate))
        )
        progress.stage("stages that both show")
        shown, left_out = comparable(first, second)
        stages = stages_in_order(_graph(bundle), shown, sections, output)
        if len(stages) < 2:
            raise InputError(
                f"{bundle.path}: no stage of {first.name} is found in {second.name} by its name", "Export it again."
            )
        evaluate = evaluator(first, second, [stage.name for stage in stages], tolerance, progress)
        found = STRATEGIES[strategy](stages, evaluate)
        operation = None
        # Inside the blocks of a smoothed network values are scaled: there is nothing to compare them with.
        if isinstance(second, CoremlProbe) and found.first is not None and candidate[1] != QUANTIZED:
            after = next(stage.after for stage in stages if stage.name == found.first)
            operation = _operation(bundle, second, found.first, after, checkpoint, tolerance, progress)
    return make_report(
        candidate=second.name,
        reference=first.name,
        frame=frame.name,
        tolerance=tolerance,
        stages=stages,
        found=found,
        left_out={name: why for name, why in left_out.items() if section_of(name, sections)},
        operation=operation,
    )


def _sections(model: str) -> tuple[Section, ...]:
    """What a family wants to look at; the outer two levels of modules where it does not say, or is not installed."""
    try:
        named = get_variant(model).sections
    except InputError:
        named = ()
    return named or (Section("network", ("*", "*.*")),)


def _operation(
    bundle: Bundle,
    probe: CoremlProbe,
    stage: str,
    after: tuple[str, ...],
    checkpoint: Path | None,
    tolerance: float,
    progress: Progress,
) -> OperationFound | None:
    """The operation inside a stage, where the weights are at hand to compute it in PyTorch."""
    if checkpoint is None and bundle.manifest.provenance.random_weights is None:
        progress.note(f"which operation of '{stage}' it is takes the checkpoint: --checkpoint CKPT")
        return None
    progress.stage(f"operations of '{stage}'")
    return probe.first_operation(stage, after, reference_path(bundle, checkpoint), _target(bundle), tolerance)


def _target(bundle: Bundle) -> str:
    versions = {artifact.opset for artifact in bundle.manifest.artifacts if artifact.format == "coreml"}
    return next(name for name, target in TARGETS.items() if target.specification in versions)


def _probe(
    bundle: Bundle, pair: tuple[str, str], frame: ReferenceFrame, scratch: Path, checkpoint: Path | None, threads: int
) -> Probe:
    backend, precision = get_backend(pair[0]), pair[1]
    if not backend.installed:
        raise BackendUnavailable(f"backend '{backend.name}' is not installed here", f"Add it with: {backend.install}")
    if backend.device == "cuda":
        find_gpu()  # before minutes of work
    contract = interface_of(bundle, *pair).contract
    frame = fit_frame(frame, contract, scratch)
    if backend.format == "checkpoint":
        require_family(contract.model, bundle.manifest.provenance.package)
        precision_plan = None if precision == "fp32" else _precision_plan(bundle, precision)
        weights = reference_path(bundle, checkpoint)
        return TorchProbe(weights, contract, precision, frame.path, scratch, threads, precision_plan)
    for artifact, computed in executions(bundle, backend):
        if computed != precision:
            continue
        path = bundle.artifact_file(artifact)
        if artifact.format == "onnx":
            return OnnxProbe(path, contract, backend.name, precision, frame.path, scratch, threads)
        if backend.verifies_only:
            return CoremlProbe(path, contract, precision, frame.path, scratch, threads)
        raise BackendUnavailable(
            f"backend '{backend.name}' does not show the inside of what it runs",
            f"Look into the package itself: --backend coreml-reference --precision {precision}",
        )
    raise BackendUnavailable(
        f"{bundle.path} holds nothing that backend '{backend.name}' computes in {precision}", who_runs(precision)
    )


def _precision_plan(bundle: Bundle, precision: str) -> PrecisionPlan:
    typed = {
        artifact.precision: artifact.precision_plan for artifact in bundle.manifest.artifacts if artifact.precision_plan
    }
    if precision not in typed:
        raise InputError(f"{bundle.path} has no network typed as {precision}. {did_you_mean(precision, sorted(typed))}")
    return typed[precision]


def _graph(bundle: Bundle) -> Path:
    """The graph whose order of stages counts: the first one exported, which is the float32 one."""
    artifact = next((artifact for artifact in bundle.manifest.artifacts if artifact.format == "onnx"), None)
    if artifact is None:
        raise BackendUnavailable(f"{bundle.path} holds no ONNX graph to take the order of the stages from")
    return bundle.artifact_file(artifact)


def _subfolder(folder: str, name: str) -> Path:
    path = Path(folder) / name
    path.mkdir()
    return path
