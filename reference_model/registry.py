"""The families this toolkit knows. A new family is one package and one line here."""

from reference_model import cdm
from reference_model.variant import Variant
from runtimes.errors import InputError, did_you_mean

VARIANTS: dict[str, Variant] = {variant.name: variant for family in (cdm.VARIANTS,) for variant in family}


def get_variant(name: str) -> Variant:
    """Variant by its command-line name. Raises InputError naming the closest known one."""
    if name not in VARIANTS:
        raise InputError(f"unknown model '{name}'. {did_you_mean(name, list(VARIANTS))}", "See: cdm-export models")
    return VARIANTS[name]
