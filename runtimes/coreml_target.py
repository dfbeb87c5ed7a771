"""The systems a Core ML package can be made for, oldest first, and what each has."""

from dataclasses import dataclass

from cdm_export.runtimes.errors import InputError, did_you_mean


@dataclass(frozen=True)
class CoremlTarget:
    """The oldest system that can open a package."""

    name: str
    """Name on the command line."""
    coremltools: str
    """Name in ``coremltools.target``."""
    specification: int
    """Version of the package's specification."""
    fused_attention: bool
    """Whether it has ``scaled_dot_product_attention`` as one operation."""
    grouped_palettes: bool
    """Whether palettes can be had per group of channels."""
    quantized_activations: bool
    """Whether it has 8-bit activations."""


TARGETS: dict[str, CoremlTarget] = {
    target.name: target
    for target in (
        CoremlTarget("macos13", "macOS13", 7, False, False, False),
        CoremlTarget("macos14", "macOS14", 8, False, False, True),
        CoremlTarget("macos15", "macOS15", 9, True, True, True),
    )
}
"""By name; iOS 16, 17 and 18 have the same specifications."""
NEWEST = "macos15"
"""What is made when nothing is asked for."""


def get_target(name: str) -> CoremlTarget:
    """Target by name. Raises InputError naming the closest."""
    if name not in TARGETS:
        raise InputError(f"--coreml-target: '{name}' is no target. {did_you_mean(name, list(TARGETS))}")
    return TARGETS[name]
