"""The training loop: resumable to the bit, atomic checkpoints, a moving average of the weights.

Batch ``k`` is decided by seed and ``k`` alone (frames, noise, augmentation), so that resuming needs no state of any
random generator, and a run cut into pieces is the run.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from cdm_export.reference_model.config import ChannelOrder
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.training.initialize import initialize
from cdm_export.reference_model.training.loss import depth_loss, revival
from cdm_export.reference_model.training.samples import Sample, training_sample
from cdm_export.reference_model.training.shards import Shards
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.host import cpu_features
from cdm_export.runtimes.lock import random_name
from cdm_export.runtimes.sources.synthetic import View

CHANNEL_ORDER: ChannelOrder = "bgr"
"""As the published weights are run, so that exporting needs no option."""
_EMA_DECAY = 0.995
_WARM_UP = 100
_LAST_RATE = 0.02
"""Learning rate at the end, as a share of the peak."""


@dataclass(frozen=True)
class Phase:
    """Training at one size."""

    until: float
    """Share of all steps at which it ends."""
    size: Size
    """Network input."""


PHASES = (Phase(0.50, Size(182, 140)), Phase(0.86, Size(252, 196)), Phase(1.0, Size(350, 266)))
"""Small first: a step at 182x140 costs half of one at 252x196 and teaches nearly as much."""
GOING_ON = (Phase(0.6, Size(252, 196)), Phase(1.0, Size(350, 266)))
"""For weights that are trained already."""


@dataclass(frozen=True)
class Plan:
    """What a training run is."""

    model: str = "cdm-vitt"
    """Registry name."""
    steps: int = 900
    """Optimizer steps; may be changed when resuming, which stretches what is left of the schedule."""
    batch: int = 8
    """Samples per step."""
    rate: float = 8e-5
    """Peak learning rate of AdamW."""
    seed: int = 0
    """Of the first weights and of every batch."""
    phases: tuple[Phase, ...] = PHASES
    """Sizes, in order."""

    def size_at(self, step: int) -> Size:
        """Network size of step ``step``."""
        return next((phase.size for phase in self.phases if step < phase.until * self.steps), self.phases[-1].size)

    def rate_at(self, step: int) -> float:
        """Warm-up, then half a cosine down to a small share of the peak."""
        warm = min(1.0, (step + 1) / _WARM_UP)
        left = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps))
        return self.rate * warm * (_LAST_RATE + (1 - _LAST_RATE) * left)


@dataclass(frozen=True)
class StepReport:
    """One step, for whoever watches."""

    step: int
    """Steps done."""
    loss: float
    """Of this step."""
    size: Size
    """Network input."""
    seconds: float
    """It took, undecided_engine for data included."""


class Training:
    """Network, moving average and optimizer, and how far they are."""

    def __init__(self, plan: Plan, frames: "Shards | Sequence[View]", network: nn.Module | None = None) -> None:
        """``network`` is the plan's model, freshly initialized when none is given."""
        self.plan, self.frames, self.step, self.seconds = plan, frames, 0, 0.0
        self.variant: Variant = get_variant(plan.model)
        if network is None:
            network = self.variant.build()
            initialize(network, plan.seed)  # type: ignore[arg-type]
        self.network = network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.average = {name: value.clone() for name, value in network.state_dict().items()}
        decayed = [p for p in network.parameters() if p.ndim > 1]
        others = [p for p in network.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, plan.rate, betas=(0.9, 0.99), fused=True)
        self._exportable = self.variant.exportable(network, CHANNEL_ORDER)
        self._before_relu: list[Tensor] = []
        last = network.get_submodule(self.variant.last_convolution)
        last.register_forward_hook(lambda module, args, output: self._before_relu.append(output))

    def run(self, until: int | None = None) -> Iterator[StepReport]:
        """Train to step ``until`` (the plan's last), the next batch made while this one is learned."""
        until = self.plan.steps if until is None else until
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self.batch, self.step)
            while self.step < until:
                started = time.monotonic()
                batch = coming.result()
                coming = pool.submit(self.batch, self.step + 1)
                loss = self._learn(*batch)
                seconds = time.monotonic() - started
                self.seconds += seconds
                yield StepReport(self.step, loss, self.plan.size_at(self.step - 1), seconds)

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, sensor inverse depth and targets of a step: see ``Sample``, with a batch axis."""
        rng = np.random.default_rng([self.plan.seed, step])
        size = self.plan.size_at(step)
        chosen = rng.integers(len(self.frames), size=self.plan.batch)
        samples = [training_sample(self.frames[int(index)], size, rng) for index in chosen]
        image, sensor, target = (torch.from_numpy(np.stack(planes)) for planes in zip(*samples, strict=True))
        return image.contiguous(memory_format=torch.channels_last), sensor, target

    def _learn(self, image: Tensor, sensor: Tensor, target: Tensor) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        # Emulated where the CPU lacks it, a hundred times slower than float32.
        with torch.autocast("cpu", torch.bfloat16, enabled="avx512_bf16" in cpu_features()):
            predicted = self._exportable(image, sensor)
        loss = depth_loss(predicted, target, sensor)
        torch.autograd.backward(loss + revival(self._before_relu.pop()))
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        decay = min(_EMA_DECAY, self.step / (self.step + 10))
        now = self.network.state_dict()
        torch._foreach_lerp_([self.average[name] for name in now], list(now.values()), 1 - decay)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write everything needed to go on, whole or not at all."""
        state = {
            "model": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = random_name(path, "partial")
        torch.save(state, temporary)
        temporary.replace(path)

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint that ``save`` wrote."""
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def watch(training: Training, checkpoint: Path, every: int, tell: Callable[[str], None]) -> None:
    """Run to the end of the plan, saving every ``every`` steps and telling how it goes."""
    losses: list[float] = []
    seconds = 0.0
    for report in training.run():
        losses.append(report.loss)
        seconds += report.seconds
        if len(losses) == 20 or report.step == training.plan.steps:
            speed = len(losses) * training.plan.batch / seconds
            tell(
                f"step {report.step}/{training.plan.steps} at {report.size}: loss {np.mean(losses):.4f}, "
                f"{speed:.1f} samples/s, {training.seconds / 60:.0f} min"
            )
            losses, seconds = [], 0.0
        if report.step % every == 0 or report.step == training.plan.steps:
            training.save(checkpoint)


__all__ = ["CHANNEL_ORDER", "GOING_ON", "PHASES", "Phase", "Plan", "Sample", "StepReport", "Training", "watch"]
