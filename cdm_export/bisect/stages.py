"""The stages of a network worth looking at, in the order of its graph, and which of them reads which."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cdm_export.reference_model.sections import Section


@dataclass(frozen=True)
class Stage:
    """One stage of the network."""

    name: str
    """Module that hands it on, or the network's output by its name in the contract."""
    section: str
    """Title of its section."""
    after: tuple[str, ...]
    """Stages it reads, with no other stage in between; none where it reads only the network's inputs."""


def section_of(stage: str, sections: tuple[Section, ...]) -> str | None:
    """Title of the section that holds a stage; None when no section does."""
    return next((section.title for section in sections if section.holds(stage)), None)


def stages_in_order(graph: Path, shown: Collection[str], sections: tuple[Section, ...], output: str) -> list[Stage]:
    """Stages among ``shown`` that a section holds, as they follow one another in an ONNX graph; ``output`` is the last.

    Only what ``output`` depends on is a stage. The weights are not read.
    """
    import onnx

    wanted = {name for name in shown if section_of(name, sections)} | {output}
    read_by: dict[str, frozenset[str]] = {}  # value -> stages it is made of, with no other in between
    order: list[tuple[str, frozenset[str]]] = []
    for node in onnx.load(graph, load_external_data=False).graph.node:
        inputs = [frozenset({name}) if name in wanted else read_by.get(name, frozenset()) for name in node.input]
        reads = frozenset[str]().union(*inputs)
        for value in node.output:
            read_by[value] = reads
            if value in wanted:
                order.append((value, reads))
    rank = {name: index for index, (name, _) in enumerate(order)}
    needed = {output}
    for name, reads in reversed(order):
        if name in needed:
            needed |= reads
    return [
        Stage(name, section_of(name, sections) or sections[-1].title, tuple(sorted(reads, key=rank.__getitem__)))
        for name, reads in order
        if name in needed
    ]
