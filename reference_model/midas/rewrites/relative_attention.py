"""BEiT's attention for one grid: the bias table is resized once, the query's scale goes into the projection.

    softmax((s q) k^T + T_size[i]) v,   T_size = resize(T)

Every pair of patches has a bias: for 384x512 pixels 0.6 million numbers per head and layer, in all layers nearly
as many as weights. The graph keeps the table and one index for all layers; runtimes gather it once, when they load.
"""

import torch
from torch import Tensor, nn

from cdm_export.reference_model.midas.beit import (
    PATCH,
    BeitAttention,
    relative_position_index,
    resized_table,
)
from cdm_export.reference_model.rewriting.attention import AttentionAround, AttentionCore
from cdm_export.reference_model.rewriting.replace import modules_of, replace_modules
from cdm_export.reference_model.rewriting.saving import Saving
from cdm_export.runtimes.contract import Size


class TableBias(nn.Module):
    """The bias of every pair of tokens, from a table of offsets."""

    index: Tensor

    def __init__(self, table: Tensor, index: Tensor) -> None:
        """``table`` [heads, offsets], ``index`` [N, N]: the offset of every pair."""
        super().__init__()
        self.table = nn.Parameter(table, requires_grad=False)
        self.register_buffer("index", index)

    def forward(self, batch: int) -> Tensor:
        """[1, heads, N, N], whatever the batch."""
        count = self.index.shape[0]
        return self.table.index_select(1, self.index.flatten()).reshape(1, -1, count, count)


@torch.no_grad()
def projection(attention: "BeitAttention | nn.Module", scale: float) -> nn.Linear:
    """One layer for queries, keys and values, with their biases and the query's scale."""
    qkv = attention.get_submodule("qkv")
    assert isinstance(qkv, nn.Linear)
    width = qkv.in_features
    query, value = attention.get_parameter("q_bias"), attention.get_parameter("v_bias")
    made = nn.Linear(width, 3 * width, device="meta")
    weight = qkv.weight if scale == 1 else torch.cat((qkv.weight[:width] * scale, qkv.weight[width:]))
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = nn.Parameter(torch.cat((query * scale, torch.zeros_like(query), value)), requires_grad=False)
    return made


def check(network: nn.Module) -> str | None:
    """Any attention of a BEiT will do."""
    return None if modules_of(network, BeitAttention) else "there is no attention of a BEiT"


@torch.no_grad()
def apply(network: nn.Module, size: Size) -> Saving:
    """Rewrite every attention, all with the same index."""
    rows, columns = size.height // PATCH, size.width // PATCH
    index = relative_position_index(rows, columns)

    def rewrite(attention: BeitAttention) -> AttentionAround:
        table = resized_table(attention.relative_position_bias_table, attention.grid, rows, columns)
        attention.qkv = projection(attention, attention.scale)
        return AttentionAround(AttentionCore(), attention, TableBias(table.t().contiguous(), index))

    return Saving(replace_modules(network, BeitAttention, rewrite))
