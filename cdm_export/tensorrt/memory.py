"""How much memory a build takes, before it is killed for it."""

from cdm_export.runtimes.bundle import Artifact

_BASE = 0.4e9
_PER_GRAPH_BYTE = 3.3
"""Bytes of memory per byte of graph: from TensorRT-RTX's builds of cdm-vits (0.84 GB) and cdm-vitl (4.7 GB) on a
CPU, ``benchmarks/results/rtx_layers.json``. TensorRT itself was not measured; it holds at least as much."""


def build_memory(graph_bytes: int, workspace: int) -> int:
    """Bytes a build is likely to take at least. ``workspace``: limit of scratch memory, bytes."""
    return int(_BASE + _PER_GRAPH_BYTE * graph_bytes + workspace)


def shortage(artifact: Artifact, workspace: int, available: int) -> str | None:
    """Warning before a build that will probably not fit; None when it should. ``available`` 0 means not known."""
    needed = build_memory(sum(record.size for record in artifact.files), workspace)
    if not available or needed <= available:
        return None
    return (
        f"building {artifact.name} takes about {needed / 2**30:.1f} GiB, {available / 2**30:.1f} GiB are available: "
        "the system may kill it. Close the desktop (sudo systemctl isolate multi-user), add swap, or lower --workspace"
    )
