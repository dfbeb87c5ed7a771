"""The families this toolkit knows. A new family is one package and one line here."""

from collections.abc import Mapping

from cdm_export.reference_model import cdm, depth_anything
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.errors import InputError, did_you_mean

VARIANTS: dict[str, Variant] = {
    variant.name: variant for family in (cdm.VARIANTS, depth_anything.VARIANTS) for variant in family
}


def get_variant(name: str) -> Variant:
    """Variant by its command-line name.

    Raises InputError naming the closest known one, or, for a name that leaves something out, all it could mean.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    could_be = [known for known in VARIANTS if _abbreviates(name.split("-"), known.split("-"))]
    if could_be:
        meanings = "".join(f"\n  {known}: {VARIANTS[known].summary}" for known in could_be)
        raise InputError(f"'{name}' leaves open which model it is:{meanings}", "Name one of them with --model.")
    raise InputError(f"unknown model '{name}'. {did_you_mean(name, list(VARIANTS))}", "See: cdm-export models")


def fitting_variants(shapes: Mapping[str, tuple[int, ...]]) -> list[Variant]:
    """Every variant that a state dict of these shapes can be; more than one where weights cannot tell."""
    return [variant for variant in VARIANTS.values() if variant.fits(shapes)]


def _abbreviates(short: list[str], whole: list[str]) -> bool:
    """Whether ``short`` is ``whole`` with parts left out; the order counts."""
    rest = iter(whole)
    return all(part in rest for part in short)
