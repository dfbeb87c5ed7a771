"""Which parts the integer kernels of this machine compute too coarsely, made in a process of its own.

On CPUs without VNNI integer products are built from 16-bit ones that saturate: with one block of the shipped model,
ONNX Runtime and OpenVINO were five times as far off as its simulation (issue 19, line 11). No simulation knows every
kernel, so a graph that fails where its simulation holds is taken apart in the backend itself: one part at a time in
integers, then everything but the worst.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cdm_export.progress import Progress, relay
from cdm_export.runtimes.contract import ModelContract, Precision, Record
from cdm_export.runtimes.isolated import report, run_isolated, serve

if TYPE_CHECKING:
    import onnx

KERNEL_AIM = 0.9
"""Share of the gate that the frame may use in the kernels: with the parts excluded for good, a little less is used."""


class KernelJob(Record):
    """A graph and the frame that it fails on."""

    backend: str
    """Name."""
    graph: str
    """ONNX file with Q/DQ pairs."""
    contract: ModelContract
    """Its inputs and output."""
    precision: Precision
    """Of the execution."""
    frame: str
    """npz with the network's inputs and the reference's ``raw_output``."""
    parts: dict[str, tuple[str, ...]]
    """Quantized layers by part."""
    most: int
    """Parts that may be excluded."""


class KernelCosts(Record):
    """What the kernels make of it."""

    alone: dict[str, float]
    """Share of the gate with only one part in integers, worst first; the weights of all parts are rounded. Infinite
    figures are 1e9."""
    excluded: tuple[str, ...]
    """As few of the worst as bring the others within ``KERNEL_AIM``; ``most`` of them where these do not."""
    left: float
    """Share of the gate without these."""


def kernel_costs(job: KernelJob, progress: Progress) -> KernelCosts:
    """Run the job. Raises what the backend raises."""
    what = f"{job.backend}, looking for the parts its kernels round coarsely,"
    return KernelCosts.model_validate(run_isolated(__name__, job, what, relay(progress)))


def by_part(layers: Collection[str], parts: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Layers by the part they lie in; those of no part are left out."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        inside = [part for part in parts if layer == part or layer.startswith(f"{part}.")]
        if inside:
            found.setdefault(max(inside, key=len), []).append(layer)
    return {part: tuple(paths) for part, paths in found.items()}


def keep_pairs(nodes: "Sequence[onnx.NodeProto]", layers: Collection[str]) -> "Iterator[onnx.NodeProto]":
    """The nodes without the Q/DQ pairs on the inputs of all layers but ``layers``: those compute in floats.

    Nodes are in the order of a graph; ``insert_pairs`` made the pairs. Weights stay rounded.
    """
    import onnx

    bypassed: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "QuantizeLinear" and node.input[1].removesuffix(".step") not in layers:
            bypassed[node.output[0]] = bypassed.get(node.input[0], node.input[0])
        elif node.op_type == "DequantizeLinear" and node.input[0] in bypassed:
            bypassed[node.output[0]] = bypassed[node.input[0]]
        elif any(name in bypassed for name in node.input):
            changed = onnx.NodeProto()
            changed.CopyFrom(node)
            changed.input[:] = [bypassed.get(name, name) for name in node.input]
            yield changed
        else:
            yield node


def _work(text: str) -> KernelCosts:
    import onnx

    from cdm_export.parity.compare import compare
    from cdm_export.parity.golden import load_reference
    from cdm_export.quantize.sensitivity import summarize
    from cdm_export.runtimes.backends import get_backend, load_runtime
    from cdm_export.runtimes.temporary import TemporaryFolder

    job = KernelJob.model_validate_json(text)
    report({"stage": f"which parts {job.backend}'s integer kernels round coarsely", "steps": len(job.parts)})
    model, arrays = onnx.load(job.graph), load_reference(Path(job.frame))
    nodes, inputs = list(model.graph.node), {spec.name: arrays[spec.name] for spec in job.contract.inputs}

    def share(parts: Mapping[str, Sequence[str]]) -> float:
        chosen = list(keep_pairs(nodes, {path for paths in parts.values() for path in paths}))
        graph = onnx.ModelProto()
        graph.CopyFrom(model)
        del graph.graph.node[:]
        graph.graph.node.extend(chosen)
        with TemporaryFolder() as folder:
            path = Path(folder) / "part.onnx"
            onnx.save(graph, path)
            runtime = load_runtime(get_backend(job.backend), path, job.contract, job.precision)
            try:
                output = runtime(inputs)[job.contract.output.name]
            finally:
                runtime.close()
        used = summarize([compare("", arrays["raw_output"], output, job.contract, "int8")]).share_of_gate
        return 1e9 if used is None else used

    alone = {}
    for part, paths in job.parts.items():
        alone[part] = share({part: paths})
        report({"step": part})
    ranked = sorted(alone, key=lambda part: -alone[part])
    left, count = 1e9, 0
    while left > KERNEL_AIM and count < min(job.most, len(ranked)):
        count += 1
        left = share({part: job.parts[part] for part in ranked[count:]})
    return KernelCosts(alone={part: alone[part] for part in ranked}, excluded=tuple(ranked[:count]), left=left)


if __name__ == "__main__":
    serve(_work)
