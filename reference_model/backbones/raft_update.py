"""RAFT's update block: correlations and flow make a motion, a GRU takes it in, its state makes the step.

Source: Teed and Deng, "RAFT: Recurrent All-Pairs Field Transforms for Optical Flow" (arXiv 2003.12039); CREStereo and
nndepth use it. Order of operations and state-dict names are the original's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cdm_export.reference_model.backbones.raft import FlowHead

HIDDEN = 128
"""Channels of the state, and of the motion."""


class MotionEncoder(nn.Module):
    """Correlations and flow as one map."""

    def __init__(self, correlations: int, planes: int) -> None:
        """``planes``: of the flow."""
        super().__init__()
        self.convc1 = nn.Conv2d(correlations, 256, 1)
        self.convc2 = nn.Conv2d(256, 192, 3, padding=1)
        self.convf1 = nn.Conv2d(planes, 128, 7, padding=3)
        self.convf2 = nn.Conv2d(128, 64, 3, padding=1)
        self.conv = nn.Conv2d(256, HIDDEN - planes, 3, padding=1)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        """[B, planes, h, w] and [B, correlations, h, w] -> [B, 128, h, w]."""
        seen = F.relu(self.convc2(F.relu(self.convc1(correlation))))
        moved = F.relu(self.convf2(F.relu(self.convf1(flow))))
        mixed = F.relu(self.conv(torch.cat((seen, moved), dim=1)))
        return torch.cat((mixed, flow), dim=1)


class SepConvGru(nn.Module):
    """Convolutional GRU along rows, then along columns."""

    def __init__(self, context: int) -> None:
        super().__init__()
        inside = HIDDEN + context + HIDDEN
        self.convz1 = nn.Conv2d(inside, HIDDEN, (1, 5), padding=(0, 2))
        self.convr1 = nn.Conv2d(inside, HIDDEN, (1, 5), padding=(0, 2))
        self.convq1 = nn.Conv2d(inside, HIDDEN, (1, 5), padding=(0, 2))
        self.convz2 = nn.Conv2d(inside, HIDDEN, (5, 1), padding=(2, 0))
        self.convr2 = nn.Conv2d(inside, HIDDEN, (5, 1), padding=(2, 0))
        self.convq2 = nn.Conv2d(inside, HIDDEN, (5, 1), padding=(2, 0))

    def prepare(self, context: Tensor) -> tuple[Tensor, ...]:
        """What every iteration needs of the context [B, C, h, w]: the context."""
        return (context,)

    def forward(self, state: Tensor, motion: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        """State [B, 128, h, w], motion of the same shape, and what was prepared -> the next state."""
        x = torch.cat((*context, motion), dim=1)
        for z_of, r_of, q_of in ((self.convz1, self.convr1, self.convq1), (self.convz2, self.convr2, self.convq2)):
            both = torch.cat((state, x), dim=1)
            z, r = torch.sigmoid(z_of(both)), torch.sigmoid(r_of(both))
            q = torch.tanh(q_of(torch.cat((r * state, x), dim=1)))
            state = (1 - z) * state + z * q
        return state


class UpdateBlock(nn.Module):
    """One iteration."""

    def __init__(self, correlations: int, context: int, factor: int, *, planes: int = 1, head: int = HIDDEN) -> None:
        """``factor`` of the upsampling, ``planes`` of the flow, ``head``: channels inside of what makes the step."""
        super().__init__()
        self.encoder = MotionEncoder(correlations, planes)
        self.gru = SepConvGru(context)
        self.flow_head = FlowHead(HIDDEN, head, planes)
        self.mask = nn.Sequential(
            nn.Conv2d(HIDDEN, 2 * HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(2 * HIDDEN, 9 * factor**2, 1)
        )

    def forward(
        self, state: Tensor, context: tuple[Tensor, ...], correlation: Tensor, flow: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next state [B, 128, h, w] and the step [B, planes, h, w]."""
        state = self.gru(state, self.encoder(flow, correlation), context)
        return state, self.flow_head(state)
