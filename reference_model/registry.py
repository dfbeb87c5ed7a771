"""The families this toolkit knows. A new family is one package and one line here."""

from collections.abc import Mapping

from cdm_export.reference_model import cdm, depth_anything
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.errors import InputError, did_you_mean

VARIANTS: dict[str, Variant] = {
    variant.name: variant for family in (cdm.VARIANTS, depth_anything.VARIANTS) for variant in family
}

LONGEST_HEAD_RANGE = 1000.0
"""Meters."""


def get_variant(name: str) -> Variant:
    """Variant by its command-line name.

    ``NAME@10m`` is the metric model NAME with a head for up to 10 m. Raises InputError naming the closest known one,
    or, for a name that leaves something out, all it could mean.
    """
    base, _, meters = name.partition("@")
    if meters.endswith("m"):
        try:
            return with_head_range(get_variant(base), float(meters[:-1]))
        except ValueError:
            pass  # no number: an unknown name
    if name in VARIANTS:
        return VARIANTS[name]
    could_be = [known for known in VARIANTS if _abbreviates(name.split("-"), known.split("-"))]
    if could_be:
        meanings = "".join(f"\n  {known}: {VARIANTS[known].summary}" for known in could_be)
        raise InputError(f"'{name}' leaves open which model it is:{meanings}", "Name one of them with --model.")
    raise InputError(f"unknown model '{name}'. {did_you_mean(name, list(VARIANTS))}", "See: cdm-export models")


def with_head_range(variant: Variant, meters: float) -> Variant:
    """A metric model with a head for another range than its name says. Raises InputError for one without such a head,
    and for a range that is none.
    """
    if not 0 < meters <= LONGEST_HEAD_RANGE:
        raise InputError(f"the range of a head is above 0 and at most {LONGEST_HEAD_RANGE:g} meters, got {meters:g}")
    if variant.at_head_range is None:
        raise InputError(
            f"--head-range {meters:g}: {variant.name} has no head with a range of its own",
            "It belongs to the metric models of Depth Anything, for example "
            "--model depth-anything-v2-metric-indoor-vits.",
        )
    return variant.at_head_range(float(f"{meters:g}"))  # as its name says


def fitting_variants(shapes: Mapping[str, tuple[int, ...]]) -> list[Variant]:
    """Every variant that a state dict of these shapes can be; more than one where weights cannot tell."""
    return [variant for variant in VARIANTS.values() if variant.fits(shapes)]


def _abbreviates(short: list[str], whole: list[str]) -> bool:
    """Whether ``short`` is ``whole`` with parts left out; the order counts."""
    rest = iter(whole)
    return all(part in rest for part in short)
