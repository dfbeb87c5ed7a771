"""Smaller weights for a half-precision package: 8-bit integers per channel, or palettes of 8, 6 or 4 bits by group.

The weights of linear layers and convolutions that are half are compressed; what is FP32 was kept for its resolution.
8-bit weights with 8-bit activations are another thing: ``quantize.py``.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cdm_export.coreml.convert import MODULES_KEY, describe, import_coremltools, quiet
from cdm_export.coreml.palette import palette
from cdm_export.runtimes.contract import COMPRESSED, QUANTIZED, ModelContract, Precision
from cdm_export.runtimes.coreml_target import CoremlTarget
from cdm_export.runtimes.errors import InputError

_BITS = {"fp16-p8": 8, "fp16-p6": 6, "fp16-p4": 4}
_LEAST = 2048
"""Weights per palette: a table beside fewer saves little."""
_WORTHWHILE = 16_384
"""Weights of a layer from which it is compressed: the last layers of a decoder are small, and the most sensitive."""
_MOST_MOVED = 0.009
"""Relative error from which 8-bit integers are too coarse for a layer: a few large weights set the scales. Normally
distributed weights have 0.006 with 200 inputs and 0.0085 with 4000."""
_GROUPS = (16, 32, 64, 128)
"""Output channels that share a palette; the first that divides a layer's and has enough weights."""


def check_compressions(names: tuple[str, ...], target: CoremlTarget) -> None:
    """Raise InputError for a compression that a target does not have."""
    for name in names:
        if name == QUANTIZED and not target.quantized_activations:
            raise InputError(
                f"{name}: 8-bit activations begin with macos14 (iOS 17), the target is {target.name}",
                "Take --coreml-target macos14, or leave it out; fp16-w8 has no such limit.",
            )
        if name in _BITS and not target.grouped_palettes:
            raise InputError(
                f"{name}: palettes by group of channels begin with macos15 (iOS 18), the target is {target.name}",
                "Take --coreml-target macos15, or leave it out; fp16-w8 has no such limit.",
            )


def compress(model: Any, how: Precision, contract: ModelContract, description: str, license: str) -> Any:
    """A half-precision ``MLModel`` with its weights compressed as ``how`` (one of ``COMPRESSED``) says."""
    assert how in COMPRESSED
    import_coremltools()
    import coremltools.optimize.coreml as optimize

    configurations: dict[str, Any] = {}
    for name, weight, group in _weights(model):
        if how == "fp16-w8" and _moved(weight) <= _MOST_MOVED:
            configurations[name] = int8_per_channel()
        elif how != "fp16-w8" and group is not None:
            configurations[name] = optimize.OpPalettizerConfig(
                mode="custom",  # its own clustering takes minutes per layer with 256 values
                lut_function=partial(palette, bits=_BITS[how]),
                granularity="per_grouped_channel" if group else "per_tensor",
                group_size=group or 32,  # without a meaning for one table
                weight_threshold=0,
            )
    configuration = optimize.OptimizationConfig(op_name_configs=configurations)
    shrink = optimize.linear_quantize_weights if how == "fp16-w8" else optimize.palettize_weights
    with quiet():
        compressed = shrink(model, configuration)
    describe(compressed, contract, description, license, model.user_defined_metadata[MODULES_KEY])
    return compressed


def int8_per_channel() -> Any:
    """How coremltools is told: 8-bit integers, one scale per output channel, zero is zero."""
    import coremltools.optimize.coreml as optimize

    return optimize.OpLinearQuantizerConfig(
        mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=0
    )


def _moved(weight: NDArray[Any]) -> float:
    """Relative L2 error of a weight in 8-bit integers, one scale per output channel."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.finfo(np.float16).tiny) / 127
    return float(np.linalg.norm(np.rint(rows / scale) * scale - rows) / np.linalg.norm(rows))


def _weights(model: Any) -> Iterator[tuple[str, NDArray[Any], int | None]]:
    """Half weights of linear layers and convolutions: name, value, channels per palette (0: one table; None: none).

    A constant that others read too stays as it is.
    """
    from coremltools.converters.mil.mil import types

    for operation in model._mil_program.functions["main"].operations:
        if operation.op_type not in ("linear", "conv"):
            continue
        weight = operation.weight
        if weight.op.op_type != "const" or weight.dtype != types.fp16 or len(weight.child_ops) != 1:
            continue
        size, channels = weight.val.size, weight.shape[0]
        if size < _WORTHWHILE:
            continue
        fitting = [g for g in _GROUPS if channels % g == 0 and g < channels and size // channels * g >= _LEAST]
        yield weight.op.name, weight.val, fitting[0] if fitting else 0 if size >= _LEAST else None
