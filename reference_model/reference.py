"""The reference forward: eager, float32, TF32 off, deterministic."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cdm_export.runtimes.contract import ModelContract


def exact_float32() -> None:
    """Clear TF32 in matmul and cuDNN: the reference is float32 throughout."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


@torch.inference_mode()
def run_reference(
    network: nn.Module, contract: ModelContract, inputs: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """Eager forward of a network behind its interface; inputs and outputs by the contract's names."""
    device = next(network.parameters()).device
    tensors = [torch.from_numpy(inputs[spec.name]).to(device) for spec in contract.inputs]
    return {contract.output.name: network(*tensors).cpu().numpy()}
