"""``python -m cdm_export.reference_model.training``: render frames, train, export.

The first two go on where they stopped.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from cdm_export.reference_model.checkpoint import load_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.training.shards import Shards, render_shards
from cdm_export.reference_model.training.trainer import GOING_ON, PHASES, Plan, Training, watch
from cdm_export.runtimes.cache import write_atomically
from cdm_export.runtimes.contract import Size

FRAME_SIZE = Size(384, 288)
FRAME_SEED = 1
CHECKPOINT = "training.pt"

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
Folder = Annotated[Path, typer.Argument(help="Where shards and checkpoints lie; some gigabytes.")]


@app.command()
def render(
    folder: Folder,
    count: Annotated[int, typer.Option(help="Frames, rounded up to whole shards.")] = 6016,
    processes: Annotated[int, typer.Option(help="Processes that render.")] = 2,
) -> None:
    """Render clean frames; those that are there already are kept."""
    finished = 0

    def done(frames: int) -> None:
        nonlocal finished
        finished += frames
        print(f"{finished} frames", flush=True)

    render_shards(folder, count, FRAME_SEED, FRAME_SIZE, processes, done)


@app.command()
def train(
    folder: Folder,
    steps: Annotated[int, typer.Option(help="Optimizer steps in all.")] = Plan.steps,
    batch: Annotated[int, typer.Option(help="Samples per step.")] = Plan.batch,
    rate: Annotated[float, typer.Option(help="Peak learning rate.")] = Plan.rate,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = Plan.seed,
    threads: Annotated[int, typer.Option(help="Threads of PyTorch.")] = 2,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    start: Annotated[
        Path | None, typer.Option(help="Trained weights to start from; give them again when resuming.")
    ] = None,
) -> None:
    """Train cdm-vitt; goes on from the folder's checkpoint when there is one."""
    torch.set_num_threads(threads)
    plan = Plan(steps=steps, batch=batch, rate=rate, seed=seed, phases=GOING_ON if start else PHASES)
    network = load_network(start, get_variant(plan.model))[0].requires_grad_() if start else None
    training = Training(plan, Shards(folder, FRAME_SEED, FRAME_SIZE), network)
    checkpoint = folder / CHECKPOINT
    if checkpoint.exists():
        training.resume(checkpoint)
        print(f"going on from step {training.step}", flush=True)
    watch(training, checkpoint, save_every, lambda line: print(line, flush=True))


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Argument(help="File to write, e.g. cdm-vitt.safetensors.")],
) -> None:
    """Write the averaged weights of the folder's checkpoint as FP16 safetensors."""
    from safetensors.torch import save

    state = torch.load(folder / CHECKPOINT, weights_only=True)
    weights = {name: value.half().contiguous() for name, value in state["average"].items()}
    write_atomically(out, save(weights, {"step": str(state["step"])}))
    print(f"{out}: step {state['step']}, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    app()
