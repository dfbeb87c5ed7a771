"""An engine that shows stages of its network: what the bisect looks into on TensorRT."""

from pathlib import Path

from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.engine_record import Source
from cdm_export.runtimes.engines import PLAN
from cdm_export.runtimes.nvidia import find_gpu, gpu_or_none
from cdm_export.tensorrt.record import write_record
from cdm_export.tensorrt.worker import BuildJob, run_build


def engine_exposing(graph: Path, contract: ModelContract, backend: str, precision: str, folder: Path) -> Path:
    """Build ``graph``, whose extra outputs are the stages, into ``folder``; returns the plan, its record beside it.

    Nothing is judged: an engine that is wrong is what is looked for. Outputs keep a tensor from being fused away, so
    that an engine that shows everything may be right where the one that shows nothing is wrong. Raises
    BackendUnavailable, EngineBuildError, BackendCrashed.
    """
    gpu = find_gpu() if backend == "tensorrt" else gpu_or_none()
    job = BuildJob.model_validate(
        {
            "backend": backend,
            "graph": str(graph.resolve()),
            "legacy_graph": str(graph.resolve()),
            "precision": precision,
            "precision_plan": None,
            "workspace": 1 << 30 if gpu and gpu.integrated else 0,
            "optimization_level": 3,
            "timing_caches": None,
            "break_fusion": False,
            "gpu": gpu if backend == "tensorrt" else None,
            "plan": str(folder / PLAN),
        }
    )
    outcome = run_build(job, lambda version: None, lambda name, steps: None, lambda done: None)
    source = Source(artifact="stages of the network", identity="")
    write_record(folder, job, outcome, contract, source, gpu)
    return folder / PLAN
