"""The record beside an engine, from what a build reported."""

from datetime import datetime, timezone
from pathlib import Path

import cdm_export
from cdm_export import publish
from cdm_export.runtimes.bundle import State
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.engine_record import BuildSettings, EngineRecord, Machine, Source
from cdm_export.runtimes.engines import PLAN
from cdm_export.runtimes.engines import write_record as write_beside
from cdm_export.runtimes.nvidia import Gpu, system_name
from cdm_export.tensorrt.worker import BuildJob, BuildOutcome


def machine_of(backend: str, version: str, gpu: Gpu | None) -> Machine:
    """What an engine made here is tied to; one of TensorRT-RTX to no GPU."""
    rtx = backend == "tensorrt-rtx"
    return Machine(
        backend="tensorrt-rtx" if rtx else "tensorrt",
        version=version,
        system=system_name(),
        gpu=None if rtx else gpu,
    )


def write_record(
    folder: Path,
    job: BuildJob,
    outcome: BuildOutcome,
    contract: ModelContract,
    source: Source,
    gpu: Gpu | None,
    workaround: str = "",
) -> EngineRecord:
    """Describe the engine in ``folder``, a candidate until it was tested."""
    record = EngineRecord(
        schema_version=1,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        producer=f"cdm-export {cdm_export.__version__}",
        precision=job.precision,
        source=source,
        contract=contract,
        engine=publish.record(folder, folder / PLAN),
        machine=machine_of(job.backend, outcome.version, gpu),
        settings=BuildSettings(
            typing=outcome.typing,
            tf32=outcome.tf32,
            optimization_level=job.optimization_level,
            workspace=outcome.workspace,
            workaround=workaround,
            extra_outputs=outcome.extra_outputs,
        ),
        layer_report=outcome.layer_report,
        warnings=outcome.warnings,
        build_seconds=round(outcome.seconds, 1),
        state=State.CANDIDATE,
        self_test=None,
        measured_ms=None,
    )
    write_beside(folder, record)
    return record
