"""The context's part of the GRU's convolutions leaves the loop, and gates that read the same are one convolution.

    W [h; c; m] + b   ->   [W_h | W_m] [h; m] + (W_c c + b)

A convolution is linear in its channels; c does not change from one iteration to the next. Where the first convolution
of the candidate q has h scaled by a gate, c is untouched by it.
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft_update import HIDDEN, SepConvGru
from cdm_export.reference_model.backbones.rewrites.last_mask import updates
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


def _convolution(weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> nn.Conv2d:
    out, inside, *kernel = weight.shape
    made = nn.Conv2d(inside, out, kernel, padding=padding, bias=bias is not None, device="meta")  # type: ignore[arg-type]
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if bias is not None:
        made.bias = nn.Parameter(bias, requires_grad=False)
    return made


class HalfStep(nn.Module):
    """The GRU along one axis."""

    def __init__(self, z_of: nn.Conv2d, r_of: nn.Conv2d, q_of: nn.Conv2d) -> None:
        super().__init__()
        weight = torch.cat((z_of.weight, r_of.weight, q_of.weight))
        assert z_of.bias is not None and r_of.bias is not None and q_of.bias is not None
        bias = torch.cat((z_of.bias, r_of.bias, q_of.bias))
        padding = (int(z_of.padding[0]), int(z_of.padding[1]))
        of_context = slice(HIDDEN, weight.shape[1] - HIDDEN)
        moving = torch.cat((weight[:, :HIDDEN], weight[:, -HIDDEN:]), dim=1)
        self.context = _convolution(weight[:, of_context], bias, padding)
        self.gates = _convolution(moving[: 2 * HIDDEN], None, padding)
        self.candidate = _convolution(moving[2 * HIDDEN :], None, padding)

    def forward(self, state: Tensor, motion: Tensor, prepared: Tensor) -> Tensor:
        """State and motion [B, 128, h, w], prepared [B, 384, h, w] -> the next state."""
        both = self.gates(torch.cat((state, motion), dim=1)) + prepared[:, : 2 * HIDDEN]
        z, r = torch.sigmoid(both).chunk(2, dim=1)
        q = torch.tanh(self.candidate(torch.cat((r * state, motion), dim=1)) + prepared[:, 2 * HIDDEN :])
        return (1 - z) * state + z * q


class PreparedGru(nn.Module):
    """``SepConvGru`` that is given the context's part of every convolution."""

    def __init__(self, gru: SepConvGru) -> None:
        super().__init__()
        self.rows = HalfStep(gru.convz1, gru.convr1, gru.convq1)
        self.columns = HalfStep(gru.convz2, gru.convr2, gru.convq2)

    def prepare(self, context: Tensor) -> tuple[Tensor, ...]:
        """The parts of both half steps, [B, 384, h, w] each, of the context [B, C, h, w]."""
        return self.rows.context(context), self.columns.context(context)

    def forward(self, state: Tensor, motion: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """State [B, 128, h, w], motion of the same shape, and what was prepared -> the next state."""
        along_rows, along_columns = context
        out: Tensor = self.columns(self.rows(state, motion, along_rows), motion, along_columns)
        return out


def check(network: nn.Module) -> str | None:
    """Any GRU along rows and columns will do."""
    return None if modules_of(network, SepConvGru) else "there is no GRU along rows and columns"


@torch.no_grad()
def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every GRU."""
    macs = 0
    for gru in modules_of(network, SepConvGru).values():
        context = gru.convz1.in_channels - 2 * HIDDEN
        spared = sum(pixels * (times - 1) for pixels, times in updates(network, size))
        macs += spared * 6 * HIDDEN * 5 * context
    return Saving(replace_modules(network, SepConvGru, PreparedGru), macs=macs)
