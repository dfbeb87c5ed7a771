"""One operation of the Core ML interpreter by itself."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

quick = settings(max_examples=25, deadline=None)
sides = st.integers(1, 7)


def run(kind, operands, arithmetic=None, shapes=((),)):
    """One operation on its operands."""
    from cdm_export.coreml.interpreter import (
        activations,
        elementwise,
        layout,
        normalize,
        pooling,
        products,
        resize,
        weights,
    )
    from cdm_export.coreml.interpreter.arithmetic import Wide
    from cdm_export.coreml.interpreter.call import Call

    modules = (activations, elementwise, layout, normalize, pooling, products, resize, weights)
    operation = next(module.OPERATIONS[kind] for module in modules if kind in module.OPERATIONS)
    return operation(Call("it", kind, operands, shapes, arithmetic or Wide()))


def random(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(got, expected, tolerance=1e-5):
    assert got.shape == expected.shape
    torch.testing.assert_close(got.double(), expected.double(), rtol=tolerance, atol=tolerance)
