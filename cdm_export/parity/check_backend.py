"""One backend over reference frames, in a process of its own, compared frame by frame."""

from pathlib import Path
from typing import Any

import numpy as np

from cdm_export.parity.compare import FrameParity, compare, compare_inputs, summarize
from cdm_export.parity.gates import rounds
from cdm_export.parity.golden import ReferenceFrame, load_reference, raw_frame
from cdm_export.progress import Progress
from cdm_export.runtimes.bundle import Verdict
from cdm_export.runtimes.contract import ModelContract, Record, execution_name
from cdm_export.runtimes.measure import Measurement
from cdm_export.runtimes.processing import preprocess
from cdm_export.runtimes.temporary import TemporaryFolder
from cdm_export.runtimes.worker import Job, run_job


class BackendParity(Record):
    """A backend's account of itself and its parity."""

    backend: str
    """Name."""
    precision: str
    """Precision of the artifact, and of the gate."""
    batch: int = 1
    """Frames that went in at once."""
    description: dict[str, Any]
    """``Runtime.describe()`` in the process that ran."""
    verdict: Verdict
    """Worst of all frames."""
    frames: tuple[FrameParity, ...]
    """One by one."""
    latency: Measurement | None
    """Inference only, ms per call; None when not asked for."""

    @property
    def label(self) -> str:
        """Precision, and the batch where it is not 1."""
        return execution_name(self.precision, self.batch)

    @property
    def name(self) -> str:
        """Backend and ``label``."""
        return f"{self.backend} {self.label}"


def check_backend(
    backend: str,
    artifact: Path,
    contract: ModelContract,
    precision: str,
    references: list[ReferenceFrame],
    reference: str,
    progress: Progress,
    *,
    threads: int = 0,
    timed: bool = False,
    keep: Path | None = None,
) -> BackendParity:
    """Run every reference frame and compare.

    ``reference`` says in words what the frames were made with. A contract with a batch takes that many of them at once,
    and there have to be as many: each is compared with its own reference. ``keep``: folder that takes the raw outputs,
    named ``BACKEND-PRECISION-INDEX.npy``. Raises what the backend raises; a gate that fails is not an error here but a
    verdict.
    """
    with TemporaryFolder() as temporary:
        folder = Path(temporary)
        label = execution_name(precision, contract.batch)
        outputs = [(keep or folder) / f"{backend}-{label}-{index}.npy" for index in range(len(references))]
        progress.stage(f"{backend} {label}: parity on {len(references)} frame(s)", len(references))
        job = Job(
            backend=backend,
            path=str(artifact),
            contract=contract,
            precision=precision,
            threads=threads,
            frames=tuple(str(item.path) for item in references),
            outputs=tuple(str(output) for output in outputs),
            timed=timed,
        )
        outcome = run_job(job, progress.step)
        frames = tuple(
            _compare_frame(item, np.load(output, allow_pickle=False), contract, precision)
            for item, output in zip(references, outputs, strict=True)
        )
    return BackendParity(
        backend=backend,
        precision=precision,
        batch=contract.batch,
        description=outcome.description,
        verdict=summarize(backend, list(frames), reference),
        frames=frames,
        latency=outcome.latency,
    )


def check_outputs(
    name: str, precision: str, folder: Path, contract: ModelContract, references: list[ReferenceFrame], reference: str
) -> BackendParity:
    """Compare outputs that were computed already: ``NAME-PRECISION-INDEX.npy`` in ``folder``, one per reference."""
    frames = tuple(
        _compare_frame(
            item, np.load(folder / f"{name}-{precision}-{index}.npy", allow_pickle=False), contract, precision
        )
        for index, item in enumerate(references)
    )
    return BackendParity(
        backend=name,
        precision=precision,
        description={"arithmetic": "every result rounded to its type, products accumulated in FP32"},
        verdict=summarize(name, list(frames), reference),
        frames=frames,
        latency=None,
    )


def _compare_frame(
    item: ReferenceFrame, candidate: "np.ndarray[Any, Any]", contract: ModelContract, precision: str
) -> FrameParity:
    arrays = load_reference(item.path)
    stored = {spec.name: arrays[spec.name] for spec in contract.inputs}
    preprocessing = compare_inputs(stored, preprocess(raw_frame(arrays), contract))
    rounded = arrays.get("rounded_bf16" if "bf16" in precision else "rounded_fp16") if rounds(precision) else None
    return compare(item.name, arrays["raw_output"], candidate, contract, precision, preprocessing, rounded)
