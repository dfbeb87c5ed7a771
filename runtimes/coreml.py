"""Core ML on a Mac. Which compute units run a package is measured once per machine, in processes of their own.

The Neural Engine's compiler and the GPU's graph compiler are known to kill the process that asks them
(apple/coremltools#2758, ultralytics/ultralytics#24885), and to take minutes. So every set of compute units is tried in
a child first, the fastest that came back with finite numbers is taken, and what became of the others is kept.
"""

import contextlib
import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.cache import cache_dir, write_atomically
from cdm_export.runtimes.contract import CONTRACT_KEY, ModelContract, Record, TensorSpec
from cdm_export.runtimes.coreml_target import TARGETS
from cdm_export.runtimes.errors import BackendCrashed, BackendUnavailable, BundleError, CdmExportError
from cdm_export.runtimes.hashing import cached_sha256
from cdm_export.runtimes.host import cpu_name, fingerprint, version_of
from cdm_export.runtimes.isolated import run_isolated, serve
from cdm_export.runtimes.measure import measure
from cdm_export.runtimes.runtime import Description, Tensors
from cdm_export.runtimes.temporary import TemporaryFolder

UNITS = ("CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY")
"""Sets of compute units that are tried. ``ALL`` is none of them: it splits graphs between GPU and Neural Engine
(facefusion/facefusion#1204 has 657 ms for it against 78)."""


class Attempt(Record):
    """What became of one set of compute units."""

    units: str
    """Its name in coremltools."""
    p50_ms: float | None
    """Median latency, ms; None when it did not come back."""
    failure: str
    """How it failed; empty when it did not."""
    residency: dict[str, int]
    """Operations by device that Core ML plans for them."""


class Attempts(Record):
    """What was measured for one package on one machine."""

    package: str
    """Identity of the package's files."""
    host: str
    """``host.fingerprint()``."""
    version: str
    """Of coremltools and of macOS."""
    attempts: tuple[Attempt, ...]
    """In the order of ``UNITS``."""

    def order(self) -> list[str]:
        """Compute units that work, the fastest first."""
        working = [attempt for attempt in self.attempts if attempt.p50_ms is not None]
        return [attempt.units for attempt in sorted(working, key=lambda attempt: attempt.p50_ms or 0.0)]


class TryJob(Record):
    """One set of compute units to try."""

    compiled: str
    """Compiled model."""
    units: str
    """Name in coremltools."""
    contract: ModelContract
    """GraphInterface of the package."""


class CoreMl:
    """One compiled model on one set of compute units; outputs are fresh arrays."""

    reuses_outputs = False

    def __init__(
        self, model: Any, contract: ModelContract, precision: str, units: str, attempts: tuple[Attempt, ...]
    ) -> None:
        self.contract = contract
        self._model = model
        self._precision = precision
        self._units = units
        self._attempts = attempts

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once."""
        return predict(self._model, self.contract, inputs)

    def describe(self) -> Description:
        """Compute units in force, where Core ML plans each operation, and how the others did."""
        taken = next(attempt for attempt in self._attempts if attempt.units == self._units)
        return Description(
            backend="coreml",
            precision=self._precision,
            device=f"Mac ({cpu_name()})",
            provider=self._units,
            threads=0,
            versions={"coremltools": version_of("coremltools") or "unknown", "macOS": _macos()},
            executed={
                "residency": taken.residency,
                "attempts": [attempt.model_dump(mode="json") for attempt in self._attempts],
            },
        )

    def close(self) -> None:
        """Drop the model."""
        self._model = None


def load(path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> CoreMl:
    """Open a package: compile it (kept in the cache), choose compute units (likewise), load.

    Raises BackendUnavailable anywhere but on a Mac, and when no set of compute units runs the package; BundleError for
    a package that Core ML refuses or that was made for another contract.
    """
    if platform.system() != "Darwin":
        raise BackendUnavailable(
            f"Core ML runs on a Mac, this is {platform.system()}: a package can be verified here, not run",
            f"Verify it with: cdm-export verify {path.parents[1]} --backend coreml-reference",
        )
    _check_package(path, contract)
    identity = package_identity(path)
    folder = cache_dir() / "coreml" / identity[:16]
    compiled = _compiled(path, folder / f"{path.stem}.mlmodelc")
    attempts = _measured(compiled, identity, folder / f"units-{fingerprint()}.json", contract)
    refused: list[str] = [f"{one.units}: {one.failure}" for one in attempts.attempts if one.failure]
    for units in attempts.order():
        try:
            model = open_compiled(compiled, units)
        except Exception as error:  # Core ML's exceptions have no common type
            refused.append(f"{units}: {_line(error)}")
            continue
        return CoreMl(model, contract, precision, units, attempts.attempts)
    raise BackendUnavailable(
        f"Core ML runs {path.name} on no compute units of this machine: {'; '.join(refused)}",
        f"Another precision may do: cdm-export inspect {path.parents[1]} lists them; or --backend onnxruntime.",
    )


def package_identity(path: Path) -> str:
    """sha256 over the sha256 of every file of a package, with its name."""
    import hashlib

    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()} {cached_sha256(file)}\n".encode())
    return digest.hexdigest()


def open_compiled(compiled: Path, units: str) -> Any:
    """A compiled model on a set of compute units."""
    import coremltools as ct

    return ct.models.CompiledMLModel(str(compiled), compute_units=ct.ComputeUnit[units])


def predict(model: Any, contract: ModelContract, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
    """One prediction; rows that the Neural Engine pads come back as they should, coremltools copies by stride."""
    outputs = model.predict({spec.name: _fed(spec, inputs[spec.name]) for spec in contract.inputs})
    return {spec.name: np.array(outputs[spec.name], dtype=np.float32) for spec in contract.outputs}


def _fed(spec: TensorSpec, array: NDArray[Any]) -> Any:
    """An input as coremltools takes it: an array, or for Core ML's image type a picture of Pillow."""
    if spec.dtype != "uint8":
        return array
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(array[0].transpose(1, 2, 0)))


def residency(compiled: Path, units: str) -> dict[str, int]:
    """Operations by the device that Core ML prefers for them; ``unknown`` where it does not say."""
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    plan = MLComputePlan.load_from_path(path=str(compiled), compute_units=ct.ComputeUnit[units])
    program = plan.model_structure.program
    counts: Counter[str] = Counter()
    for operation in program.functions["main"].block.operations:
        if operation.operator_name.rpartition(".")[2] == "const":  # names may carry the operation set: ios18.conv
            continue
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        device = type(usage.preferred_compute_device).__name__ if usage is not None else "unknown"
        counts[device.removeprefix("ML").removesuffix("ComputeDevice")] += 1
    return dict(counts.most_common())


def _check_package(path: Path, contract: ModelContract) -> None:
    """The contract travels in the package too; and a package of a newer format is not for this system."""
    import coremltools as ct

    try:
        specification = ct.utils.load_spec(str(path))
    except Exception as error:  # protobuf's exception types are not public
        raise BundleError(f"{path.name} cannot be read: {_line(error)}", "Export the bundle again.") from error
    inside = specification.description.metadata.userDefined.get(CONTRACT_KEY)
    if inside is not None and ModelContract.model_validate_json(inside) != contract:
        raise BundleError(
            f"{path.name} was made for another contract than the manifest has: {inside}", "Export the bundle again."
        )
    needed = next((t.name for t in TARGETS.values() if t.specification == specification.specificationVersion), "")
    if needed and int(_macos().partition(".")[0]) < int(needed.removeprefix("macos")):
        raise BackendUnavailable(
            f"{path.name} was made for {needed}, this is macOS {_macos()}",
            f"Export it again with --coreml-target macos{_macos().partition('.')[0]}.",
        )


def _compiled(path: Path, target: Path) -> Path:
    """Compile into the cache; another process may do the same meanwhile, one of the two stays."""
    import shutil

    import coremltools as ct

    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFolder(target.parent, ".compile-") as folder:
        made = Path(folder) / target.name
        try:
            ct.models.utils.compile_model(str(path), destination_path=str(made))
        except Exception as error:
            raise BundleError(f"Core ML refused {path.name}: {_line(error)}", "Export the bundle again.") from error
        with contextlib.suppress(OSError):
            made.rename(target)
        if not target.is_dir():
            shutil.copytree(made, target)
    return target


def _measured(compiled: Path, identity: str, file: Path, contract: ModelContract) -> Attempts:
    """What was measured before, with these libraries and this system; else measured now."""
    version = f"coremltools {version_of('coremltools')}, macOS {_macos()}"
    with contextlib.suppress(OSError, ValidationError):
        known = Attempts.model_validate_json(file.read_bytes())
        if (known.package, known.host, known.version) == (identity, fingerprint(), version):
            return known
    attempts = tuple(_try(TryJob(compiled=str(compiled), units=units, contract=contract)) for units in UNITS)
    measured = Attempts(package=identity, host=fingerprint(), version=version, attempts=attempts)
    with contextlib.suppress(OSError):
        write_atomically(file, measured.model_dump_json(indent=1).encode())
    return measured


def _try(job: TryJob) -> Attempt:
    """One set of compute units in a process of its own: whatever dies, dies there."""
    try:
        done = run_isolated(__name__, job, f"Core ML on {job.units}", lambda message: None)
    except BackendCrashed as error:
        return Attempt(units=job.units, p50_ms=None, failure=error.message, residency={})
    except CdmExportError as error:
        return Attempt(units=job.units, p50_ms=None, failure=error.message, residency={})
    return Attempt.model_validate(done)


def _work(text: str) -> Attempt:
    job = TryJob.model_validate_json(text)
    compiled, contract = Path(job.compiled), job.contract
    try:
        model = open_compiled(compiled, job.units)
        given = {
            spec.name: np.full(spec.shape, 128 if spec.dtype == "uint8" else 0.5, spec.dtype)
            for spec in contract.inputs
        }
        outputs = predict(model, contract, given)
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise BundleError(f"'{name}' holds NaN or Inf on {job.units}")
        timed = measure({job.units: lambda: predict(model, contract, given)}, budget=1.0)[job.units]
    except CdmExportError:
        raise
    except Exception as error:
        raise BackendUnavailable(_line(error)) from error
    placed: dict[str, int] = {}
    with contextlib.suppress(Exception):  # the plan is a report; macOS before 14.4 has none
        placed = residency(compiled, job.units)
    return Attempt(units=job.units, p50_ms=timed.p50, failure="", residency=placed)


def _macos() -> str:
    return platform.mac_ver()[0]


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


if __name__ == "__main__":
    serve(_work)
