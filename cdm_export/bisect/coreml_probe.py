"""A Core ML package through the interpreter: any value of its program can be shown, none changes by that."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdm_export.bisect.coreml_worker import OperationFound, ShowJob, Shown, show
from cdm_export.bisect.probe import Shapes
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import InputError


class CoremlProbe:
    """One package, one frame. Every ``outputs`` interprets it in a process of its own."""

    def __init__(
        self, package: Path, contract: ModelContract, precision: str, frame: Path, scratch: Path, threads: int = 0
    ) -> None:
        """``frame``, ``scratch``: as ``OnnxProbe`` has them."""
        self.name = f"coreml-reference {precision}"
        self._scratch = scratch
        self._job = ShowJob(
            package=str(package),
            contract=contract,
            threads=threads,
            frame=str(frame),
            stages=None,
            folder=str(scratch),
        )
        self._queries = 0

    @cached_property
    def _listed(self) -> Shown:
        return show(self._job)

    @property
    def stages(self) -> Shapes:
        """Every module whose last value the program still has."""
        return self._listed.shapes

    def outputs(self, stages: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Raises InputError for a stage that the program does not have, BundleError for a program that breaks."""
        missing = [name for name in stages if name not in self.stages]
        if missing:
            raise InputError(f"the program has no value for '{missing[0]}'", "Export the bundle again.")
        folder = self._scratch / f"coreml-{self._queries:03d}"
        self._queries += 1
        folder.mkdir()
        shown = show(self._job.model_copy(update={"stages": tuple(stages), "folder": str(folder)}))
        return {name: np.load(shown.files[name], mmap_mode="r", allow_pickle=False) for name in stages}

    def first_operation(
        self, stage: str, after: Sequence[str], weights: Path, target: str, tolerance: float
    ) -> OperationFound | None:
        """The first operation between ``after`` and ``stage`` whose value leaves the tolerance.

        It is compared with the same operation of the exported graph in float32 PyTorch, on ``weights`` (checkpoint, or
        bundle of seeded ones). None when no value that both have is outside.
        """
        job = self._job.model_copy(
            update={
                "stages": (stage,),
                "after": tuple(after),
                "weights": str(weights),
                "target": target,
                "tolerance": tolerance,
            }
        )
        return show(job).operation
