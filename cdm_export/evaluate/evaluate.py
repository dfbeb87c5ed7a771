"""Everything that runs here against the truth: what did an export cost in the benchmark's own numbers?"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2

import cdm_export
from cdm_export.evaluate.baselines import BASELINES, Baseline
from cdm_export.evaluate.data import DataSet, Needs, open_data
from cdm_export.evaluate.judge import Prediction, Row, alignment_of, judge
from cdm_export.evaluate.ledger import Ledger, state_of
from cdm_export.evaluate.metrics import AlignmentKind
from cdm_export.evaluate.protocols import StereoProtocol
from cdm_export.evaluate.result import Entry, Evaluation, differences, estimates
from cdm_export.predict.frames import weights_warning
from cdm_export.progress import Progress
from cdm_export.reference_model.weights import bundled_checkpoint
from cdm_export.runtimes import local_results
from cdm_export.runtimes.backends import BACKENDS, get_backend, why_absent
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import ModelContract, Semantics, Size
from cdm_export.runtimes.errors import BackendUnavailable, InputError, ParityError
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.hashing import cached_sha256
from cdm_export.runtimes.opening import check_reader, open_choice, reference_path
from cdm_export.runtimes.pipeline import DepthPipeline
from cdm_export.runtimes.processing import at_camera_size, preprocess
from cdm_export.runtimes.processing.size import network_size
from cdm_export.runtimes.selection import Choice, check_precision, choose, executions

_WORST = 10
"""Images of each entry that ``report`` knows by name."""
Predict = Callable[[Frame], Prediction]
Opened = Callable[[], AbstractContextManager[Predict]]


@dataclass(frozen=True)
class EvaluateRequest:
    """What to evaluate on what."""

    what: str
    """Path of a bundle, or name of a baseline."""
    data: str
    """``KIND:PATH``."""
    backend: str = "auto"
    """Name, or ``auto`` for all that run here."""
    precision: str = "auto"
    """Name, or ``auto`` for all."""
    checkpoint: Path | None = None
    """Of the PyTorch reference; without it PyTorch runs seeded weights only."""
    align: AlignmentKind | None = None
    """Instead of what the model's output wants."""
    limit: int | None = None
    """Images, the first so many; None for all."""
    depth_scale: float = 1000.0
    """Sensor units per meter of integer depth."""
    fit: bool = False
    """Stretch images that the network's size does not follow from."""
    threads: int = 0
    """0 for all."""


@dataclass(frozen=True)
class _Candidate:
    """Something to evaluate, opened when its turn comes."""

    name: str
    """For people."""
    identity: str
    """Of all that its answers depend on: another one may answer otherwise."""
    semantics: Semantics
    """Of its predictions."""
    open: Opened


def evaluate(request: EvaluateRequest, progress: Progress) -> Evaluation:
    """Every candidate on every image. An image that fails is named, and is in no mean.

    Raises InputError (data, names, sizes), BundleError, BackendUnavailable (nothing runs here).
    """
    if request.limit is not None and request.limit < 1:
        raise InputError(f"--limit must be at least 1, got {request.limit}")
    skipped: dict[str, str] = {}
    notes: list[str] = []
    bundle: Bundle | None = None
    if request.what in BASELINES:
        _refuse_for_baselines(request)
        needs, functions = BASELINES[request.what]
        evaluated = request.what
        semantics = Semantics.DISPARITY if needs.right else Semantics.METRIC_DEPTH
        candidates = [
            _Candidate(name, f"OpenCV {cv2.__version__}", semantics, _always(_baseline(function, semantics)))
            for name, function in functions.items()
        ]
    else:
        bundle = _bundle(request)
        contract = bundle.manifest.contract
        needs = Needs(depth=contract.reads("depth"), right=contract.reads("right"))
        evaluated = contract.model
        candidates = list(_of_bundle(bundle, request, skipped, notes))
    data = open_data(request.data, needs, request.depth_scale)
    protocol = data.protocol
    alignment = alignment_of(candidates[0].semantics, protocol, request.align) if candidates else ""
    if not candidates:
        raise BackendUnavailable(
            "nothing can be evaluated here: " + "; ".join(f"{name}: {why}" for name, why in skipped.items()),
            "See: cdm-export doctor",
        )
    if bundle is not None:
        # Said once, before networks are opened, rather than by every one of them.
        _at(bundle.manifest.contract, data.load(0).source.frame.size, request.fit)
        if warning := weights_warning(bundle.manifest):
            notes.append(warning)
    average = protocol.average if isinstance(protocol, StereoProtocol) else "images"
    entries: list[Entry] = []
    ledgers = {candidate.name: _ledger(candidate, data, request) for candidate in candidates}
    stopped = False
    for candidate in candidates:
        if stopped:
            skipped[candidate.name] = "interrupted before its turn"
            continue
        entry, stopped = _run(candidate, ledgers[candidate.name], data, request, average, progress, notes)
        baseline = next((one for one in entries if one.images), None)
        if baseline is not None and entry.images:
            compared = differences(entry.images, baseline.images, average)
            entry = entry.model_copy(update={"differences": compared})
        entries.append(entry)
    if not stopped:
        for ledger in ledgers.values():
            ledger.close()
    if not any(entry.images for entry in entries):
        if stopped:
            raise KeyboardInterrupt
        why = next(why for entry in entries for why in entry.failed.values())
        raise InputError(f"no image could be judged: {why}")
    result = Evaluation(
        evaluated=evaluated,
        data=data.description,
        protocol=protocol.name,
        source=protocol.source,
        alignment=alignment,
        average=average,
        headline=protocol.headline if isinstance(protocol, StereoProtocol) else ("abs_rel", "rmse", "a1"),
        compared_with=next((entry.name for entry in entries if entry.images), None) if len(entries) > 1 else None,
        entries=tuple(entries),
        skipped=skipped,
        notes=tuple(dict.fromkeys(notes)),
        interrupted=stopped,
    )
    if bundle is not None and not stopped:
        _remember(bundle, result, progress)
    return result


def _remember(bundle: Bundle, result: Evaluation, progress: Progress) -> None:
    """For ``report``: one result per data set and way to judge it."""
    of = f"{result.data}\n{result.protocol}\n{result.alignment}"
    name = hashlib.sha256(of.encode()).hexdigest()[:16]
    if local_results.save_evaluation(bundle, result.shortened(_WORST), name) is None:
        progress.note("the result could not be stored for report: neither the bundle nor the cache can be written")


def _run(
    candidate: _Candidate,
    ledger: Ledger,
    data: DataSet,
    request: EvaluateRequest,
    average: str,
    progress: Progress,
    notes: list[str],
) -> tuple[Entry, bool]:
    """One candidate on every image, and whether somebody interrupted it."""
    count = min(len(data.names), request.limit or len(data.names))
    known = ledger.rows()
    images: dict[str, Row] = {}
    failed: dict[str, str] = {}
    stopped = False
    progress.stage(f"{candidate.name}: {count} image(s)", count)
    if known:
        progress.note(f"{candidate.name}: goes on after {len(known)} image(s) of an evaluation that was interrupted")
    try:
        with candidate.open() as predict:
            for index in range(count):
                name = data.names[index]
                if name in known:
                    images[name] = known[name]
                    progress.step()
                    continue
                try:
                    item = data.load(index)
                    notes.extend(item.source.notes)
                    images[name] = judge(predict(item.source.frame), item, data.protocol, request.align)
                    ledger.add(name, images[name])
                except InputError as error:
                    failed[name] = error.message
                    progress.warn(f"{candidate.name}, {name}: {error.message}")
                progress.step()
    except KeyboardInterrupt:
        stopped = True
    regions = estimates(images, average)
    return Entry(name=candidate.name, regions=regions, differences={}, images=images, failed=failed), stopped


def _ledger(candidate: _Candidate, data: DataSet, request: EvaluateRequest) -> Ledger:
    return Ledger(
        cdm_export.__version__,
        candidate.name,
        candidate.identity,
        f"{request.data} {data.description} {data.protocol.name} {request.depth_scale:.17g}",
        f"{request.align} {request.fit}",
        state_of(data.files),
    )


def _bundle(request: EvaluateRequest) -> Bundle:
    path = Path(request.what)
    if not path.exists():
        raise InputError(
            f"'{request.what}' is neither a bundle nor a baseline",
            f"Baselines: {', '.join(BASELINES)}; a bundle comes of: cdm-export export",
        )
    return Bundle.open(path)


def _refuse_for_baselines(request: EvaluateRequest) -> None:
    given = {
        "--backend": request.backend != "auto",
        "--precision": request.precision != "auto",
        "--checkpoint": request.checkpoint is not None,
        "--fit": request.fit,
        "--align": request.align is not None,
    }
    if wrong := [option for option, is_given in given.items() if is_given]:
        raise InputError(f"{request.what} is a baseline: {', '.join(wrong)} has no meaning", "Leave it out.")


def _baseline(function: Baseline, semantics: Semantics) -> Predict:
    def predict(frame: Frame) -> Prediction:
        return Prediction(function(frame), semantics, holes=semantics is Semantics.DISPARITY)

    return predict


def _always(predict: Predict) -> Opened:
    @contextmanager
    def opened() -> Iterator[Predict]:
        yield predict

    return opened


def _of_bundle(
    bundle: Bundle, request: EvaluateRequest, skipped: dict[str, str], notes: list[str]
) -> Iterator[_Candidate]:
    """PyTorch first, as what the others are compared with, then every backend and precision that runs here."""
    check_precision(bundle, request.precision)
    if request.backend != "auto":
        check_reader(get_backend(request.backend), request.checkpoint)
    checkpoint = request.checkpoint or _shipped(bundle)
    semantics = bundle.manifest.contract.semantics
    wanted = [get_backend(request.backend)] if request.backend != "auto" else list(BACKENDS.values())
    choices: list[Choice] = []
    for backend in wanted:
        named = request.backend != "auto"
        absent = why_absent(backend)
        if backend.format == "checkpoint":
            if request.precision not in ("auto", "fp32") and not named:
                continue
            try:
                reference_path(bundle, checkpoint)
            except InputError as error:
                if named or request.checkpoint is not None:
                    raise
                skipped[f"{backend.name} fp32"] = error.message
                continue
            pairs = ["fp32"]
        elif backend.verifies_only and not named:
            continue
        else:
            pairs = [one for _, one in executions(bundle, backend) if request.precision in ("auto", one)]
        for precision in pairs:
            try:
                if absent is not None:
                    raise absent
                choices.append(choose(bundle, backend.name, precision))
            except (BackendUnavailable, ParityError) as error:
                if named and request.precision != "auto":
                    raise
                skipped[f"{backend.name} {precision}"] = error.message
    choices.sort(key=lambda choice: choice.backend.format != "checkpoint")
    for choice in choices:
        read = checkpoint if choice.backend.format == "checkpoint" else None
        ran = local_results.path_here(bundle, choice.backend, choice.precision)
        made = (
            ran.model_dump_json()
            if ran is not None
            else f"{bundle.manifest.provenance.sha256} {choice.backend.version}"
        )
        identity = f"{bundle.identity} {made}"
        yield _Candidate(choice.name, identity, semantics, _opener(bundle, choice, request, read, notes))


def _shipped(bundle: Bundle) -> Path | None:
    """The weights that came with the package, where the bundle was made from those."""
    shipped = bundled_checkpoint(bundle.manifest.contract.model)
    made_from = bundle.manifest.provenance.sha256
    return shipped if shipped is not None and cached_sha256(shipped) == made_from else None


def _opener(
    bundle: Bundle, choice: Choice, request: EvaluateRequest, checkpoint: Path | None, notes: list[str]
) -> Opened:
    @contextmanager
    def opened() -> Iterator[Predict]:
        with open_choice(bundle, choice, warmup=False, threads=request.threads, checkpoint=checkpoint) as pipeline:
            yield lambda frame: _predict(pipeline, frame, request.fit, notes)

    return opened


def _predict(pipeline: DepthPipeline, frame: Frame, fit: bool, notes: list[str]) -> Prediction:
    """The network's output at the frame's size, before anything was called invalid or too far."""
    contract = _at(pipeline.contract, frame.size, fit)
    if contract.camera != pipeline.contract.camera:
        notes.append(f"images of {frame.size} were resized to {contract.content} for the network")
    raw = pipeline.runtime(preprocess(frame, contract))[contract.output.name]
    return Prediction(at_camera_size(raw, contract), contract.semantics)


def _at(contract: ModelContract, size: Size, fit: bool) -> ModelContract:
    """The contract for images of another size, where the network is one for those as well, or they are stretched.

    Raises InputError where it is not.
    """
    if size == contract.camera:
        return contract
    if contract.sizing.rule == "fixed":
        return contract.model_copy(update={"camera": size})
    network, content = network_size(size, contract.input_size, contract.sizing)
    if network == contract.network:
        return contract.model_copy(update={"camera": size, "content": content})
    if not fit:
        raise InputError(
            f"the image is {size}: the network for it is {network}, this bundle's is {contract.network}",
            f"Export with --camera {size}, or stretch such images: --fit.",
        )
    return contract.model_copy(update={"camera": size})
