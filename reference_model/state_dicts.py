"""Where in a checkpoint the weights are: which nested mapping, under which prefix, and what else would fit.

Training code wraps a state dict as it likes. Nothing is guessed from a list of wrappers: every mapping of the file and
every prefix that many of its names share is held against the shapes of the known models, and what fits is taken. Where
nothing fits, the usual wrappers and prefixes are followed, so that the message about it can speak of bare names.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cdm_export.reference_model.stored_arrays import StoredArray
from cdm_export.reference_model.unpickle import StoredTensor

WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "weights", "params", "net", "network")
"""Keys under which training code puts the state dict, the likeliest first."""
_PREFIXES = (
    *("module.", "pipeline.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."),
    *("model.", "net.", "network."),
)
"""What trainers and compilers put before every name; taken off where no known model fits."""
_INSIDE = {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What they put into the middle of names, around the submodules they wrap; no network here calls a module so."""
_AVERAGED = re.compile(r"ema|swa|averaged?|shadow|teacher")
"""Weights beside the trained ones, taken only when asked for, or when there are no others."""
_MAX_NESTING = 8
_MAX_MAPPINGS = 10_000
_MAX_COMPONENTS = 6
_SHARE = 16
"""A prefix counts when one in so many names carries it."""

Shapes = Mapping[str, tuple[int, ...]]
Fits = Callable[[Shapes], bool]


@dataclass(frozen=True)
class Found:
    """One set of weights in a file."""

    keys: tuple[str, ...]
    """Mappings that lead to it, outermost first."""
    prefix: tuple[str, ...]
    """Components taken off its names, outermost first."""
    leaves: Mapping[str, Any]
    """Tensors as the file describes them, by bare names; what lies beside the network keeps its name."""

    @property
    def key(self) -> str:
        """By which it is selected; empty when it is the file itself."""
        return ".".join((*self.keys, *self.prefix))


def find_state_dict(tree: Any, fits: Fits, key: str = "") -> tuple[Found | None, tuple[str, ...]]:
    """The weights to take, and the keys of the others that fit as well.

    ``key``: which to take, as ``Found.key`` or a part of it that ends at a dot. None when nothing in ``tree`` holds a
    tensor where a state dict has it, and when ``key`` names nothing.
    """
    known = [found for keys, mapping in _mappings(tree) for found in _fitting(keys, mapping, fits)]
    if not known:
        known = [found for keys, mapping in _side_by_side(tree) for found in _fitting(keys, mapping, fits)]
    if key:
        chosen = next((found for found in known if _named(found, key)), None)
        return chosen, tuple(found.key for found in known if found is not chosen)
    if known:
        chosen = min(known, key=_preference)
        return chosen, tuple(found.key for found in known if found is not chosen)
    return _usual(tree), ()


def shape_of(leaf: Any) -> tuple[int, ...]:
    """Shape of a tensor or of a description of one; empty for a description that is none."""
    size = tuple(leaf.shape) if isinstance(leaf, Tensor) else leaf.size
    return size if isinstance(size, tuple) and all(isinstance(side, int) for side in size) else ()


def leaves_of(tree: Any) -> dict[str, Any]:
    """Named tensors that lie directly in a mapping."""
    return {name: leaf for name, leaf in entries(tree).items() if isinstance(leaf, (Tensor, StoredTensor, StoredArray))}


def entries(tree: Any) -> dict[str, Any]:
    """Entries of a mapping with names as keys; nothing for anything else."""
    return {key: value for key, value in tree.items() if isinstance(key, str)} if isinstance(tree, dict) else {}


def _mappings(tree: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every mapping of the file once, outer ones first, each with the keys that lead to it and its tensors."""
    level: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    seen: set[int] = set()
    for _ in range(_MAX_NESTING):
        below = []
        for keys, node in level:
            if id(node) in seen or len(seen) > _MAX_MAPPINGS:
                continue
            seen.add(id(node))
            if leaves := leaves_of(node):
                yield keys, leaves
            below += [((*keys, key), value) for key, value in entries(node).items() if isinstance(value, dict)]
        level = below


def _side_by_side(tree: Any) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Tensors of networks that lie beside one another in the file, or one level deeper, as parts of one network: their
    keys begin the names.
    """
    nodes: list[tuple[tuple[str, ...], Any]] = [((), tree), *(((key,), value) for key, value in entries(tree).items())]
    for keys, node in nodes:
        parts = {f"{key}.{name}": leaf for key, part in entries(node).items() for name, leaf in leaves_of(part).items()}
        if parts:
            yield keys, parts


def _fitting(keys: tuple[str, ...], leaves: dict[str, Any], fits: Fits) -> Iterator[Found]:
    """What fits of a mapping: under one prefix, or, where trained and averaged weights lie side by side, several."""
    counts: Counter[tuple[str, ...]] = Counter()
    for name in leaves:
        parts = name.split(".", _MAX_COMPONENTS + 1)
        counts.update(tuple(parts[:depth]) for depth in range(min(len(parts), _MAX_COMPONENTS)))
    taken: dict[tuple[str, ...], dict[str, Any]] = {}
    for prefix in sorted(counts, key=len):
        if counts[prefix] * _SHARE < len(leaves) or any(outer and prefix[: len(outer)] == outer for outer in taken):
            continue
        own = _strip({name: leaf for name, leaf in leaves.items() if name.startswith(_dotted(prefix))}, _dotted(prefix))
        if own and fits({name: shape for name, leaf in own.items() if (shape := shape_of(leaf))}):
            bare = _strip(leaves, _dotted(prefix))
            taken[prefix] = own if bare is None else bare
    for prefix, bare in taken.items():
        others = tuple(_dotted(other) for other in taken if other and other != prefix)
        own = {name: leaf for name, leaf in bare.items() if not others or not name.startswith(others)}
        yield Found(keys, prefix, own)


def _dotted(prefix: tuple[str, ...]) -> str:
    return ".".join((*prefix, "")) if prefix else ""


def _strip(leaves: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    """Names without the prefix and without what wraps submodules; None when two would become one."""
    bare: dict[str, Any] = {}
    for name, leaf in leaves.items():
        if name.startswith(prefix):
            first, *rest = name.removeprefix(prefix).split(".")
            name = ".".join((first, *(part for part in rest if part not in _INSIDE)))
        if name in bare:
            return None
        bare[name] = leaf
    return bare


def _preference(found: Found) -> tuple[bool, int, int]:
    """Trained before averaged weights, the usual wrappers before others, outer ones first."""
    parts = (*found.keys, *found.prefix)
    ranks = [WRAPPERS.index(part) if part in WRAPPERS else len(WRAPPERS) for part in found.keys]
    return any(_AVERAGED.search(part.lower()) for part in parts), max(ranks, default=0), len(parts)


def _named(found: Found, key: str) -> bool:
    return f".{key}." in f".{found.key}."


def _usual(tree: Any) -> Found | None:
    """By the usual wrappers and prefixes."""
    keys: list[str] = []
    while wrapper := next((key for key in WRAPPERS[:3] if _holds_tensors(entries(tree).get(key))), None):
        keys.append(wrapper)
        tree = tree[wrapper]
        if len(keys) > _MAX_NESTING:
            return None
    leaves = leaves_of(tree)
    prefix: list[str] = []
    while leaves:
        shared = next((each for each in _PREFIXES if _share(leaves, each) > 0.5), None)
        bare = {name.removeprefix(shared or ""): leaf for name, leaf in leaves.items()}
        if shared is None or len(bare) < len(leaves):
            return Found(tuple(keys), tuple(prefix), leaves)
        leaves = bare
        prefix.append(shared.removesuffix("."))
    return None


def _holds_tensors(tree: Any) -> bool:
    return isinstance(tree, dict) and next(_mappings(tree), None) is not None


def _share(names: Iterable[str], prefix: str) -> float:
    listed = list(names)
    return sum(name.startswith(prefix) for name in listed) / len(listed)
