"""The network in PyTorch, in its original order of operations: hooks show what its modules hand on."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_export.bisect.probe import Shapes
from cdm_export.bisect.torch_worker import ShowJob, show
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.graph_precision import PrecisionPlan


class TorchProbe:
    """One set of weights, one precision, one frame. Every ``outputs`` is a forward in a process of its own."""

    def __init__(
        self,
        weights: Path,
        contract: ModelContract,
        precision: str,
        frame: Path,
        scratch: Path,
        threads: int = 0,
        precision_plan: PrecisionPlan | None = None,
    ) -> None:
        """``weights``: checkpoint, or bundle of seeded weights. ``frame``, ``scratch``: as ``OnnxProbe`` has them.

        ``precision_plan``: how the artifact of ``precision`` was typed; None for the reference itself.
        """
        self.name = f"torch {precision}"
        self._scratch = scratch
        self._job = ShowJob(
            weights=str(weights),
            contract=contract,
            precision=precision,
            precision_plan=precision_plan,
            threads=threads,
            frame=str(frame),
            stages=None,
            folder=str(scratch),
        )
        self._queries = 0

    @cached_property
    def stages(self) -> Shapes:
        """Every module that runs once and hands on one tensor; found without weights."""
        return show(self._job).shapes

    def outputs(self, stages: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Raises ParityError for a stage that did not run exactly once, and what loading the weights raises."""
        folder = self._scratch / f"torch-{self._job.precision}-{self._queries:03d}"
        self._queries += 1
        folder.mkdir()
        shown = show(self._job.model_copy(update={"stages": tuple(stages), "folder": str(folder)}))
        return {name: np.load(shown.files[name], mmap_mode="r", allow_pickle=False) for name in stages}
