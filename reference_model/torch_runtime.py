"""The PyTorch reference as a runtime: eager float32, original order of operations."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cdm_export.reference_model.random_weights import state_dict_sha256
from cdm_export.reference_model.reference import exact_float32, run_reference
from cdm_export.reference_model.registry import require_family
from cdm_export.reference_model.variant import NETWORK
from cdm_export.reference_model.weights_source import WeightsSource
from cdm_export.runtimes.backends import Backend
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.contract import ModelContract
from cdm_export.runtimes.errors import CheckpointError
from cdm_export.runtimes.host import cpu_name
from cdm_export.runtimes.runtime import Description, Tensors

if TYPE_CHECKING:
    from torch import nn


def load_exportable(path: Path, contract: ModelContract) -> "nn.Module":
    """The network behind its interface, from a checkpoint file or from a bundle folder of seeded random weights.

    Raises CheckpointError for a file that cannot be used, and for a PyTorch that makes other weights from the seed.
    """
    import torch

    exact_float32()
    if not path.is_dir():
        return WeightsSource(checkpoint=str(path)).exportable(contract)
    provenance = Bundle.open(path).manifest.provenance
    require_family(contract.model, provenance.package)
    assert provenance.random_weights is not None
    exportable = WeightsSource(seeded=provenance.random_weights).exportable(contract)
    if state_dict_sha256(exportable.get_submodule(NETWORK)) != provenance.sha256:
        raise CheckpointError(
            f"PyTorch {torch.__version__} makes other weights from seed {provenance.random_weights.seed} than the "
            "version that made this bundle"
        )
    return exportable


class TorchRuntime:
    """A network behind its interface."""

    reuses_outputs = False

    def __init__(self, path: Path, contract: ModelContract) -> None:
        self.contract = contract
        self._network = load_exportable(path, contract)

    def run(self, inputs: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run once."""
        return run_reference(self._network, self.contract, inputs)

    def describe(self) -> Description:
        """Always CPU, float32, eager."""
        import torch

        return Description(
            backend="torch",
            precision="fp32",
            device=f"CPU ({cpu_name()})",
            provider="eager",
            threads=torch.get_num_threads(),
            versions={"torch": torch.__version__},
            executed={"dtype": str(next(self._network.parameters()).dtype)},
        )

    def close(self) -> None:
        """Drop the network."""
        self.__dict__.pop("_network", None)  # calling again is harmless


def load(path: Path, contract: ModelContract, backend: Backend, precision: str, threads: int) -> TorchRuntime:
    """Open a checkpoint file, or a bundle folder of seeded random weights."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    return TorchRuntime(path, contract)
