"""The families this toolkit knows. A new family is one package and one line here, or, in a package of somebody else's,
one line of its metadata: an entry point of the group ``cdm_export.families`` that names a tuple of ``Variant``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import entry_points

from cdm_export.reference_model import bdedepth, cdm, crestereo, depth_anything, igev, midas, nndepth, raft_stereo
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.errors import CheckpointError, InputError, did_you_mean

_FAMILIES = (
    cdm.VARIANTS,
    depth_anything.VARIANTS,
    midas.VARIANTS,
    bdedepth.VARIANTS,
    nndepth.VARIANTS,
    raft_stereo.VARIANTS,
    crestereo.VARIANTS,
    igev.VARIANTS,
)
VARIANTS: dict[str, Variant] = {variant.name: variant for family in _FAMILIES for variant in family}

GROUP = "cdm_export.families"
"""Of entry points."""


@dataclass(frozen=True)
class ThirdParty:
    """Families that other installed packages bring."""

    variants: dict[str, Variant] = field(default_factory=dict)
    """By name."""
    packages: dict[str, str] = field(default_factory=dict)
    """Distribution and version by the model's name."""
    problems: tuple[str, ...] = ()
    """What could not be used, and why, each a sentence."""


@lru_cache(maxsize=1)
def third_party() -> ThirdParty:
    """Load the entry points, once. Importing somebody's package runs its code: only models are looked for here, when a
    name is not ours, models are listed, or a checkpoint is to be recognized; nothing that a bundle says is imported.
    """
    found = ThirdParty()
    problems = []
    for entry in entry_points(group=GROUP):
        package = f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else entry.value
        try:
            loaded = entry.load()
            variants = tuple(getattr(loaded, "VARIANTS", loaded))
            names = [variant.name for variant in variants]
        except Exception as error:  # whatever their import raises is theirs
            problems.append(f"the families of {package} cannot be used: {type(error).__name__}: {error}")
            continue
        for name, variant in zip(names, variants, strict=True):
            other = "cdm-export" if name in VARIANTS else found.packages.get(name)
            if other is not None:
                problems.append(f"{package} has a model called {name}, as {other} has: it is left out")
                continue
            found.variants[name] = variant
            found.packages[name] = package
    return ThirdParty(found.variants, found.packages, tuple(problems))


def all_variants() -> dict[str, Variant]:
    """Every model that is known here, ours first, by name."""
    return {**VARIANTS, **third_party().variants}


def package_of(name: str) -> str:
    """Distribution and version whose family a model is; empty for this package's own."""
    return "" if name.partition("@")[0] in VARIANTS else third_party().packages.get(name.partition("@")[0], "")


def family_installed(name: str) -> bool:
    """Whether a model can be built here; the families of other packages come and go with these."""
    return name.partition("@")[0] in VARIANTS or name.partition("@")[0] in third_party().variants


def require_family(name: str, package: str) -> None:
    """Raise CheckpointError when a model's network is part of a package (``package_of``) that is not installed here."""
    if package and not family_installed(name):
        raise CheckpointError(
            f"the network of {name} is part of {package}, which is not installed here",
            f"Install it beside this package: pip install {package.split()[0]}",
        )


LONGEST_HEAD_RANGE = 1000.0
"""Meters."""


def get_variant(name: str) -> Variant:
    """Variant by its command-line name.

    ``NAME@10m`` is the metric model NAME with a head for up to 10 m, ``NAME@8it`` the recurrent one with 8 iterations.
    Raises InputError naming the closest known one, or, for a name that leaves something out, all it could mean.
    """
    base, _, suffix = name.partition("@")
    try:
        if suffix.endswith("it"):
            return with_iterations(get_variant(base), int(suffix[:-2]))
        if suffix.endswith("m"):
            return with_head_range(get_variant(base), float(suffix[:-1]))
    except ValueError:
        pass  # no number: an unknown name
    if name in VARIANTS:
        return VARIANTS[name]
    known_here = all_variants()
    if name in known_here:
        return known_here[name]
    could_be = [known for known in known_here if _abbreviates(name.split("-"), known.split("-"))]
    if could_be:
        meanings = "".join(f"\n  {known}: {known_here[known].summary}" for known in could_be)
        raise InputError(f"'{name}' leaves open which model it is:{meanings}", "Name one of them with --model.")
    problems = "".join(f"; {problem}" for problem in third_party().problems)
    raise InputError(
        f"unknown model '{name}'. {did_you_mean(name, list(known_here))}{problems}",
        "See: cdm-export models. A family of another package has to be installed beside this one.",
    )


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


MOST_ITERATIONS = 100
"""Of a recurrent network, whose graph has every iteration in it."""


def with_iterations(variant: Variant, iterations: int) -> Variant:
    """A recurrent model with another number of iterations. Raises InputError for a model without, and for a number
    that is none.
    """
    if not 1 <= iterations <= MOST_ITERATIONS:
        raise InputError(f"iterations are from 1 to {MOST_ITERATIONS}, got {iterations}")
    if variant.at_iterations is None:
        raise InputError(
            f"--iterations {iterations}: {variant.name} has none to choose",
            "It belongs to recurrent stereo models, for example --model raft-stereo-realtime.",
        )
    return variant if iterations == variant.iterations else variant.at_iterations(iterations)


def fitting_variants(shapes: Mapping[str, tuple[int, ...]]) -> list[Variant]:
    """Every variant that a state dict of these shapes can be; more than one where weights cannot tell."""
    return [variant for variant in all_variants().values() if variant.fits(shapes)]


def _abbreviates(short: list[str], whole: list[str]) -> bool:
    """Whether ``short`` is ``whole`` with parts left out; the order counts."""
    rest = iter(whole)
    return all(part in rest for part in short)
