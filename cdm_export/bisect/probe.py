"""What a search runs through: something that shows what a network's stages hand on."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cdm_export.runtimes.contract import ModelContract, TensorSpec

Shapes = Mapping[str, tuple[int, ...]]
"""Stage -> shape of what it hands on."""


class Probe(Protocol):
    """One way to compute the network, on one frame's inputs.

    A stage is named after the module of the network that hands it on; the network's own output, by its name in the
    contract, is a stage like any other.
    """

    @property
    def name(self) -> str:
        """Backend and precision, e.g. ``openvino bf16``."""
        ...

    @property
    def stages(self) -> Shapes:
        """Every stage it can show."""
        ...

    def outputs(self, stages: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """What these stages hand on, float32 whatever the precision inside. Raises what the backend raises."""
        ...


def exposing(contract: ModelContract, stages: Sequence[str], shapes: Shapes) -> ModelContract:
    """The contract of an artifact that hands out stages beside its own outputs, in this order, after them."""
    own = {spec.name for spec in contract.outputs}
    added = tuple(TensorSpec(name=name, shape=shapes[name], unit="") for name in stages if name not in own)
    return contract.model_copy(update={"outputs": (*contract.outputs, *added)})
