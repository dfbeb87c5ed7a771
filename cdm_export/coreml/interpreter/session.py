"""A package opened for interpreting, as a runtime like any other."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cdm_export.coreml.convert import import_coremltools
from cdm_export.coreml.interpreter.execute import check_known, execute
from cdm_export.coreml.interpreter.program import Program, load_program
from cdm_export.runtimes.contract import CONTRACT_KEY, ModelContract
from cdm_export.runtimes.errors import BundleError
from cdm_export.runtimes.host import cpu_name
from cdm_export.runtimes.runtime import Description, Tensors, check_interface


class CoremlReference:
    """One package and its program; outputs are fresh arrays."""

    reuses_outputs = False

    def __init__(self, program: Program, contract: ModelContract, precision: str) -> None:
        self.contract = contract
        self.program = program
        self._precision = precision

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once."""
        given = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()}
        return {name: value.float().numpy() for name, value in execute(self.program, given).items()}

    def describe(self) -> Description:
        """Operations by type, and how they are computed."""
        counts: dict[str, int] = {}
        for operation in self.program.operations:
            kind = f"{operation.kind} {operation.outputs[0].dtype}"
            counts[kind] = counts.get(kind, 0) + 1
        return Description(
            backend="coreml-reference",
            precision=self._precision,
            device=f"CPU ({cpu_name()})",
            provider="interpreted, operation by operation",
            threads=torch.get_num_threads(),
            versions={"coremltools": import_coremltools().__version__, "torch": torch.__version__},
            executed={
                "arithmetic": "inputs and results of every operation rounded to its type, sums in FP32",
                "operations": counts,
            },
        )

    def close(self) -> None:
        """Drop the program."""
        self.__dict__.pop("program", None)  # calling again is harmless


def open_package(path: Path, contract: ModelContract, precision: str, threads: int) -> CoremlReference:
    """Read a package.

    Raises BundleError for a package that does not hold together, holds an operation unknown here, or was made for
    another contract.
    """
    if threads:
        torch.set_num_threads(threads)
    program = load_program(path)
    check_known(program)
    given = {spec.name: spec.shape for spec in program.inputs}
    made = {spec.name: spec.shape for operation in program.operations for spec in operation.outputs}
    check_interface(given | {name: made[name] for name in program.outputs if name in made}, contract, path)
    wanted = {spec.name for spec in contract.inputs if spec.dtype == "uint8"}
    if set(program.images) != wanted:
        raise BundleError(
            f"{path.name} takes images as {sorted(program.images) or 'no input'}, the contract as "
            f"{sorted(wanted) or 'none'}",
            "Export the bundle again.",
        )
    inside = program.metadata.get(CONTRACT_KEY)
    if inside is not None and ModelContract.model_validate_json(inside) != contract:
        raise BundleError(
            f"{path.name} was made for another contract than the manifest has: {inside}", "Export the bundle again."
        )
    return CoremlReference(program, contract, precision)
