"""What each exact rewrite is worth -> ``results/rewrites.json``: ``python -m benchmarks.rewrites``.

Every rule is left out in turn and timed against the graph with all rules, call by call in turn in one process; a rule
on trial is added instead. Small effects drown in the whole network, so rules that only touch fusion and decoder are
also timed there, for the large model as well. Rows can be made piece by piece (``--only``, ``--part``); those of rules
that were given up stay in the file.
"""

import gc
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from cdm_export.bench.environment import environment
from cdm_export.onnx.convert import export_onnx
from cdm_export.reference_model.cdm.config import CONFIGS
from cdm_export.reference_model.cdm.rewrites import NEEDS
from cdm_export.reference_model.config import PATCH
from cdm_export.reference_model.random_weights import seeded_network
from cdm_export.reference_model.registry import get_variant
from cdm_export.reference_model.rewriting import Rule, Saving, apply_rule
from cdm_export.runtimes.contract import ModelContract, Size, TensorSpec
from cdm_export.runtimes.measure import measure
from cdm_export.runtimes.processing import preprocess
from cdm_export.runtimes.sources import open_source
from cdm_export.runtimes.telemetry import import_onnxruntime, import_openvino
from cdm_export.transforms import rules_of

RULES = rules_of(get_variant("cdm-vits"))
CAMERA = Size(640, 480)
RESULT = Path(__file__).parent / "results" / "rewrites.json"
THREADS = 2
RUNTIMES = ("ONNX Runtime f32", "OpenVINO f32", "OpenVINO bf16")
WHOLE, DECODER, LARGE_DECODER = "cdm-vits", "cdm-vits fusion and decoder", "cdm-vitl fusion and decoder"
"""What is timed; the first word is the model."""
IN_DECODER = {"two_token_attention", "fusion_projection", "convolution_before_upsample", "phase_convolution"}
"""Rules that leave the encoders alone."""
_LAST = "linear_layout"


@dataclass(frozen=True)
class Trial:
    """A rule that is not applied."""

    rule: Rule
    """The rule."""
    instead_of: tuple[str, ...] = ()
    """Rules it excludes."""


TRIALS: dict[str, Trial] = {}
"""Rules on trial. One that pays goes into ``RULES``; one that does not leaves its row and a line below."""

GIVEN_UP = {
    "layer_norm_affine": "no gain that repeats; would put each channel's spread into INT8's activations",
    "query_on_difference": "pays in float32, costs 6 % of the small decoder in bf16 (values four tokens wide)",
    "transposed_convolution": "saves nothing; phase_convolution takes the same transposed convolutions away",
}
"""Rules that were measured and given up, and why; their code is in the revision that their figures name."""


class Decoder(nn.Module):
    """Fusion and decoder of a CDM alone, from the tokens of both encoders."""

    def __init__(self, network: nn.Module, rows: int, columns: int) -> None:
        super().__init__()
        self.crossAtts = network.get_submodule("crossAtts")
        self.depth_head_rgbd = network.get_submodule("depth_head_rgbd")
        self.grid = (rows, columns)

    def forward(self, *tokens: Tensor) -> Tensor:
        """Four color and four depth levels, each [1, T, C]."""
        assert isinstance(self.crossAtts, nn.ModuleList)
        half = len(tokens) // 2
        levels = [
            torch.cat((color, fusion(color, depth)), dim=-1)
            for fusion, color, depth in zip(self.crossAtts, tokens[:half], tokens[half:], strict=True)
        ]
        out: Tensor = self.depth_head_rgbd(levels, *self.grid)
        return out


def main(
    only: Annotated[list[str] | None, typer.Option(help="Rules to measure; all by default.")] = None,
    graphs: Annotated[Path | None, typer.Option(help="Folder that keeps the exported graphs.")] = None,
    part: Annotated[list[str] | None, typer.Option(help=f"{WHOLE}, {DECODER}, {LARGE_DECODER}; all.")] = None,
    export_only: Annotated[bool, typer.Option(help="Make the graphs, measure nothing.")] = False,
    rounds: Annotated[
        int, typer.Option(help="Timed pairs per rule and runtime; the small decoder gets two times that.")
    ] = 9,
    group: Annotated[int, typer.Option(help="Rules timed at once against the graph with all.")] = 4,
) -> None:
    """Export, measure, merge into the JSON, print the table."""
    names = [name for name in [*RULES, *TRIALS] if not only or name in only]
    with tempfile.TemporaryDirectory() as temporary:
        folder = graphs or Path(temporary)
        for name in names:
            for where in _parts(name, part):
                for rules in pair(name):
                    graph(rules, where, folder)
        if export_only:
            return
        old = json.loads(RESULT.read_text())["rules"] if RESULT.exists() else {}
        revision = environment()["revision"]
        times = {name: old.get(name, {}).get("times", {}) for name in names}
        for where in (WHOLE, DECODER, LARGE_DECODER):
            chosen = [name for name in names if where in _parts(name, part)]
            for start in range(0, len(chosen), group):
                for name, runtime, figures in compare(chosen[start : start + group], where, folder, rounds):
                    times[name].setdefault(where, {})[runtime] = {**figures, "revision": revision}
        rows = {name: {"kept": name in RULES, **describe(name, folder), "times": times[name]} for name in names}
    result = {
        "what": f"camera {CAMERA}, seeded weights: time without the rule over time with it, {THREADS} threads",
        "rules": {**old, **rows},
        "environment": environment(),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(rewrites())


def pair(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Rules of the two graphs to compare: with this rule, and without it and those that need it."""
    if name in RULES:
        without = tuple(rule for rule in RULES if rule != name and name not in NEEDS.get(rule, ()))
        return tuple(RULES), without
    without = tuple(rule for rule in RULES if rule not in TRIALS[name].instead_of)
    return (*(rule for rule in without if rule != _LAST), name, _LAST), without


def _parts(name: str, chosen: Sequence[str] | None) -> list[str]:
    parts = (WHOLE, DECODER, LARGE_DECODER) if name in IN_DECODER else (WHOLE,)
    return [part for part in parts if not chosen or part in chosen]


def graph(rules: Sequence[str], part: str, folder: Path) -> Path:
    """The ONNX file of a network with these rules applied in order, exported unless it is there."""
    missing = [name for name in RULES if name not in rules]
    label = f"without {' '.join(missing)}" if missing else "all"
    label += "".join(f" with {name}" for name in rules if name not in RULES)
    path = folder / f"{part} {label}.onnx".replace(" ", "_")
    if path.exists():
        return path
    variant = get_variant(part.split()[0])
    contract = _contract(part)
    network = variant.exportable(seeded_network(variant, 0), contract.channel_order).eval()
    size = Size(*contract.network)
    rows, columns = size.height // PATCH, size.width // PATCH
    savings = {}
    for name in rules:
        rule = RULES[name] if name in RULES else TRIALS[name].rule
        savings[name] = asdict(apply_rule(rule, network, size))
    if part != WHOLE:
        contract = _decoder_contract(contract)
        network = Decoder(network.get_submodule("network"), rows, columns)
    export_onnx(network, contract, path.with_suffix(".partial"))
    path.with_suffix(".json").write_text(json.dumps(savings))
    path.with_suffix(".partial").rename(path)
    return path


def describe(name: str, folder: Path) -> dict[str, Any]:
    """What the rule claims to save (with those that need it), and how many nodes both graphs have."""
    with_rule, without = (graph(rules, WHOLE, folder) for rules in pair(name))
    saved, kept = (json.loads(path.with_suffix(".json").read_text()) for path in (with_rule, without))
    claims = [Saving(**saving) for rule, saving in saved.items() if rule not in kept]
    counts = [_operators(path) for path in (with_rule, without)]
    changed = {kind: counts[0][kind] - counts[1][kind] for kind in sorted(counts[0] | counts[1])}
    return {
        "rules": [rule for rule in saved if rule not in kept],
        "instead_of": [rule for rule in RULES if rule not in pair(name)[0]],
        "modules": sum(claim.modules for claim in claims),
        "macs": sum(claim.macs for claim in claims),
        "nodes": sum(claim.nodes for claim in claims),
        "onnx_nodes_with_and_without": [count.total() for count in counts],
        "operators": {kind: change for kind, change in changed.items() if change},
    }


def compare(names: Sequence[str], part: str, folder: Path, rounds: int) -> "list[tuple[str, str, dict[str, Any]]]":
    """Time the pairs of several rules, every graph once per round."""
    paths = {name: [graph(rules, part, folder) for rules in pair(name)] for name in names}
    inputs = _inputs(part)
    found = []
    for runtime in RUNTIMES:
        calls = {path: _Timed(_open(path, runtime, inputs)) for both in paths.values() for path in both}
        measured = measure(
            {path.name: call for path, call in calls.items()}, budget=0, least=2 * rounds if part == DECODER else rounds
        )
        for name, (with_rule, without) in paths.items():
            count = measured[without.name].calls
            times = [np.array(calls[path].seconds[-count:]) for path in (without, with_rule)]
            ratios = times[0] / times[1]
            low, middle, high = (float(value) for value in np.percentile(ratios, (25, 50, 75)))
            figures = {
                "ratio": round(middle, 4),
                "quartiles": [round(low, 4), round(high, 4)],
                "ms_without": round(measured[without.name].p50, 1),
                "ms_with": round(measured[with_rule.name].p50, 1),
                "pairs": count,
            }
            print(f"{name} | {part} | {runtime} | {figures}", flush=True)
            found.append((name, runtime, figures))
        del calls
        gc.collect()
    return found


class _Timed:
    """Keeps every duration: ratios are formed call against neighboring call."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call
        self.seconds: list[float] = []

    def __call__(self) -> None:
        started = time.perf_counter()
        self.call()
        self.seconds.append(time.perf_counter() - started)


def _open(path: Path, runtime: str, inputs: list[Any]) -> Callable[[], object]:
    if runtime.startswith("ONNX"):
        onnxruntime = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feed = {node.name: array for node, array in zip(session.get_inputs(), inputs, strict=True)}
        return lambda: session.run(None, feed)
    openvino = import_openvino()
    config = {
        "INFERENCE_PRECISION_HINT": runtime.split()[-1],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": THREADS,
        "NUM_STREAMS": 1,
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", config)
    given = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert given == runtime.split()[-1], f"OpenVINO was asked for {runtime} and will compute in {given}"
    request = compiled.create_infer_request()
    return lambda: request.infer(inputs, share_inputs=True)


def _contract(part: str) -> ModelContract:
    model = part.split()[0]
    contract = get_variant(model).contract(model, CAMERA)
    assert isinstance(contract, ModelContract)
    return contract


def _decoder_contract(contract: ModelContract) -> ModelContract:
    patches = contract.network.height // PATCH * (contract.network.width // PATCH)
    width = CONFIGS[contract.model.removeprefix("cdm-")].encoder.width
    tokens = tuple(
        TensorSpec(name=f"{encoder}_{level}", shape=(1, patches, width), unit="normalized tokens")
        for encoder in ("color", "depth")
        for level in range(4)
    )
    return contract.model_copy(update={"inputs": tokens})


def _inputs(part: str) -> list[Any]:
    """A real frame; unit-variance tokens for the decoder, which is what the encoders' last LayerNorm gives."""
    contract = _contract(part)
    if part == WHOLE:
        return list(preprocess(open_source("sample", camera=CAMERA).load(0).frame, contract).values())
    generator = np.random.default_rng(0)
    return [generator.standard_normal(spec.shape).astype(np.float32) for spec in _decoder_contract(contract).inputs]


def _operators(path: Path) -> Counter[str]:
    import onnx

    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def rewrites() -> str:
    """What every rule saves and what it is worth; above 1 the rule pays. Median and half the quartiles' distance."""
    result = json.loads(RESULT.read_text())
    rows = [
        f"| rule | MMAC saved | nodes saved | timed | {' | '.join(RUNTIMES)} | kept |",
        "|---|---|---|---|" + "---|" * len(RUNTIMES) + "---|",
    ]
    for name, row in sorted(result["rules"].items(), key=lambda item: item[0] in GIVEN_UP):
        about = [name, f"{row['macs'] / 1e6:.0f}", str(row["nodes"])]
        kept = f"not kept: {GIVEN_UP[name]}" if name in GIVEN_UP else "yes"
        for part in (WHOLE, DECODER, LARGE_DECODER):
            if part in row["times"]:
                times = [row["times"][part].get(runtime) for runtime in RUNTIMES]
                figures = [f"{time['ratio']:.3f} ± {_half_spread(time):.3f}" if time else "" for time in times]
                rows.append(f"| {' | '.join((*about, part, *figures, kept))} |")
                about, kept = ["", "", ""], ""
    return "\n".join(rows)


def _half_spread(times: dict[str, Any]) -> float:
    low, high = times["quartiles"]
    return float(high - low) / 2


if __name__ == "__main__":
    typer.run(main)
