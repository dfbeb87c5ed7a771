"""Operations on each value by itself, and on pairs with broadcasting."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cdm_export.coreml.interpreter.call import Call
from cdm_export.coreml.interpreter.program import DTYPES
from cdm_export.runtimes.errors import BundleError


def _unary(compute: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: compute(call.tensor("x"))


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: compute(call.tensor("x"), call.tensor("y"))


def gelu(call: Call) -> Tensor:
    """Exact unless the program asks for an approximation."""
    x, mode = call.tensor("x"), call.text("mode", "EXACT")
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise BundleError(f"operation '{call.name}' (gelu) has the unknown mode '{mode}'")


def cast(call: Call) -> Tensor:
    """To another type; what does not fit a half becomes Inf, fractions are cut off for integers."""
    kind = call.text("dtype")
    if kind not in DTYPES:
        raise BundleError(f"operation '{call.name}' (cast) asks for the unknown type '{kind}'")
    return call.tensor("x").to(DTYPES[kind])


OPERATIONS: dict[str, Callable[[Call], Tensor]] = {
    "add": _binary(torch.add),
    "sub": _binary(torch.sub),
    "mul": _binary(torch.mul),
    "real_div": _binary(torch.div),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "pow": _binary(torch.pow),
    "relu": _unary(torch.relu),
    "relu6": _unary(F.relu6),
    "softplus": _unary(F.softplus),
    "log": lambda call: torch.log(call.tensor("x") + call.number("epsilon", 1e-45)),
    "floor": _unary(torch.floor),
    "ceil": _unary(torch.ceil),
    "round": _unary(torch.round),
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "cos": _unary(torch.cos),
    "elu": lambda call: F.elu(call.tensor("x"), call.number("alpha", 1.0)),
    "prelu": lambda call: F.prelu(call.tensor("x"), call.tensor("alpha").reshape(-1)),
    "sigmoid": _unary(torch.sigmoid),
    "tanh": _unary(torch.tanh),
    "silu": _unary(F.silu),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "abs": _unary(torch.abs),
    "identity": _unary(torch.clone),
    "rsqrt": lambda call: torch.rsqrt(call.tensor("x") + call.number("epsilon", 1e-12)),
    "inverse": lambda call: 1 / (call.tensor("x") + call.number("epsilon", 1e-4)),
    "clip": lambda call: call.tensor("x").clamp(call.number("alpha", -math.inf), call.number("beta", math.inf)),
    "leaky_relu": lambda call: F.leaky_relu(call.tensor("x"), call.number("alpha", 0.01)),
    "gelu": gelu,
    "cast": cast,
}
