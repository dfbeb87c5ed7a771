"""Parts of a network that a person knows by name, and the modules in them whose output is worth looking at."""

from dataclasses import dataclass

from cdm_export.reference_model.policies import matches


@dataclass(frozen=True)
class Section:
    """Part of a network.

    Exact rewrites inside a stage keep what it hands on; what they move across a border belongs to no section: the
    fusions of CDM's pairs (``crossAtts``), whose projection may go into ``projects``.
    """

    title: str
    """In tables and plots."""
    patterns: tuple[str, ...]
    """Modules whose output is looked at; ``*`` stands for anything but a dot."""

    def holds(self, stage: str) -> bool:
        """Whether a stage belongs to this section."""
        return any(matches(stage, pattern) for pattern in self.patterns)


def encoder_section(title: str, path: str) -> Section:
    """Stages of the ``DinoV2`` at ``path``."""
    return Section(title, (f"{path}.patch_embed", f"{path}.blocks.*"))


def decoder_section(title: str, path: str) -> Section:
    """Stages of the ``DptHead`` at ``path``."""
    inside = ("projects.*", "resize_layers.*", "scratch.layer*_rn", "scratch.refinenet*", "scratch.output_conv1")
    return Section(title, tuple(f"{path}.{pattern}" for pattern in inside))
