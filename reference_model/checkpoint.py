"""Published weights into a network, or an error that says why not.

The usual way, ``load_state_dict(strict=False)`` after cutting a fixed number of characters off every name, leaves a
network with random weights and no message when the file is wrapped another way. Here nothing is missing silently.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdm_export.reference_model.checked_files import remember_checked, was_checked
from cdm_export.reference_model.checkpoint_files import DOWNLOAD_AGAIN, refuse_what_is_no_checkpoint
from cdm_export.reference_model.checkpoint_files import some as _some
from cdm_export.reference_model.published_names import allows
from cdm_export.reference_model.registry import fitting_variants
from cdm_export.reference_model.state_dicts import WRAPPERS, Found, find_state_dict, shape_of
from cdm_export.reference_model.unpickle import RESAVE, Ignored, StoredTensor, read_torch_file
from cdm_export.reference_model.variant import Variant
from cdm_export.reference_model.weight_checks import find_damage, find_zero_tail
from cdm_export.runtimes.checkpoint_path import split_checkpoint
from cdm_export.runtimes.errors import CheckpointError
from cdm_export.runtimes.hashing import cached_sha256

if TYPE_CHECKING:
    from torch import nn

_CODE_MODULES = {
    *("os", "posix", "nt", "subprocess", "commands", "sys", "shutil", "socket", "pty", "ctypes"),
    *("importlib", "runpy", "marshal", "pickle", "_pickle", "code", "codeop", "timeit", "webbrowser"),
    *("multiprocessing", "urllib", "requests", "pip", "hub"),
}
_CODE_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "__import__", "input", "breakpoint"}
"""What no training framework puts into a checkpoint and an attack does. Nothing foreign runs whether it is in here or
not; a file that tries is refused all the same, because its weights cannot be trusted either."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors of a file, as views of it: the file must not be overwritten while they are in use."""

    path: Path
    """The file, with ``#KEY`` where one of several sets of weights was asked for."""
    sha256: str
    """Hexadecimal, of the whole file."""
    state_dict: dict[str, Tensor]
    """Tensors by their names after unwrapping and stripping."""
    ignored: tuple[str, ...]
    """Foreign Python names met in a pickle, as it spells them; nothing of them was imported or run."""
    wrapper: str
    """How the file wraps its tensors: ``plain``, or such as ``state_dict, prefix 'pipeline.'``."""
    key: str = ""
    """By which these weights are selected in the file; empty when they are the file itself."""
    others: tuple[str, ...] = ()
    """Keys of further weights in the file that fit as well."""
    asked: bool = False
    """Whether the key was given."""
    starts: Mapping[str, int] = field(default_factory=dict)
    """First byte of each tensor in the file, where it is a view of it."""


@dataclass(frozen=True)
class LoadReport:
    """What came of loading a checkpoint that fits."""

    loaded: int
    """Tensors the network took."""
    absent: tuple[str, ...]
    """Parameters the forward never reads that the file lacks; zeros now."""
    unexpected: tuple[str, ...]
    """Names in the file that the network does not have; not used."""
    converted: dict[str, int]
    """Tensors converted to the network's dtype, counted by the dtype in the file: ``{"float16": 330}``."""
    taken: str = ""
    """Key of the weights that were taken where the file holds others that fit as well, and none was asked for."""
    others: tuple[str, ...] = ()
    """Keys of those others."""

    def notes(self) -> list[str]:
        """What a person should know, one sentence each; empty when the file fitted without remark."""
        notes = []
        if self.others:
            also = ", ".join(f"'{key}'" if key else "the file's own tensors" for key in self.others)
            taken = f"those under '{self.taken}'" if self.taken else "the file's own tensors"
            named = next((key for key in self.others if key), self.taken)
            notes.append(
                f"the file holds {len(self.others) + 1} sets of weights that fit; {taken} were taken, {also} would fit "
                f"as well: choose with --weights-key, for example --weights-key {named}"
            )
        if self.unexpected:
            notes.append(f"{len(self.unexpected)} tensor(s) of the file are not used: {_some(self.unexpected)}")
        if self.absent:
            notes.append(f"{len(self.absent)} tensor(s) the network never reads are absent: {_some(self.absent)}")
        for dtype, count in self.converted.items():
            notes.append(f"{count} tensor(s) were {dtype} in the file and are now float32")
        return notes


def read_checkpoint(path: Path, variant: Variant | None = None) -> Checkpoint:
    """Read ``.pt``, ``.pth``, ``.ckpt`` (any ``torch.save``) or ``.safetensors``; told apart by content, not by name.

    However the weights are wrapped, those that fit ``variant`` or any known model are taken; ``FILE#KEY`` says which of
    several. Raises CheckpointError when the file is missing, damaged, something else, or holds no tensors.
    """
    file, key = split_checkpoint(path)

    def fits(shapes: Mapping[str, tuple[int, ...]]) -> bool:
        return (variant is not None and variant.fits(shapes)) or bool(fitting_variants(shapes))

    try:
        refuse_what_is_no_checkpoint(file)
        with file.open("rb") as opened:
            is_safetensors = opened.read(9)[8:] == b"{"
        read = _read_safetensors if is_safetensors else _read_pickled
        found, others, state, starts, ignored = read(file, fits, key)
        wrapper = ", ".join([*found.keys, *(f"prefix '{each}.'" for each in found.prefix)]) or "plain"
        digest = cached_sha256(file)
        return Checkpoint(path, digest, state, ignored, wrapper, found.key, others, bool(key), starts)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}") from error


def detect_variant(checkpoint: Checkpoint) -> str:
    """Name of the variant whose weights these are, by their shapes.

    Raises CheckpointError when they are of no known one, and when shapes cannot tell which one it is.
    """
    fitting = fitting_variants(_shapes(checkpoint))
    if not fitting:
        raise CheckpointError(
            f"{checkpoint.path}: its tensors belong to no model known here",
            "Say which with --model; see: cdm-export models",
        )
    if fitting[0].cannot_tell:
        named = _named(checkpoint.path, fitting)
        raise CheckpointError(
            f"{checkpoint.path} can be {_or(fitting)}, and its weights cannot tell: {fitting[0].cannot_tell}",
            f"It is named as {_or(named)} was published; if it is that, say so: --model {named[0].name}"
            if 0 < len(named) < len(fitting)
            else "Say which it is with --model; see: cdm-export models",
        )
    return fitting[0].name


def load_into(network: "nn.Module", checkpoint: Checkpoint, variant: Variant) -> LoadReport:
    """Give the network the checkpoint's tensors themselves (no copy), whatever device it was built on.

    Floating tensors of another dtype are converted to the network's. Raises CheckpointError when the weights are of
    another variant, when a tensor is missing, has another shape, or holds NaN, infinity or what no training ends with
    (``weight_checks.py``), and when the file carries code.
    """
    _refuse_code(checkpoint)
    _refuse_other_variant(checkpoint, variant)
    expected: dict[str, Tensor] = network.state_dict()
    given = checkpoint.state_dict
    file = split_checkpoint(checkpoint.path)[0]
    what = f"{checkpoint.key} as {variant.name}"
    before = was_checked(file, what)
    absent = [name for name in expected if name not in given]
    missing = [name for name in absent if not any(part in name for part in variant.unused_parameters)]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path} lacks {len(missing)} of {len(expected)} tensors of {variant.name}: {_some(missing)}",
            f"It is incomplete or from other training code{_foreign(checkpoint.ignored)}. " + RESAVE,
        )
    wrong = [name for name in expected if name in given and given[name].shape != expected[name].shape]
    if wrong:
        listed = (f"{name} expected {list(expected[name].shape)}, got {list(given[name].shape)}" for name in wrong)
        raise CheckpointError(
            f"{checkpoint.path} does not fit {variant.name}, {len(wrong)} tensors have another shape: {_some(listed)}",
            "The network was changed in training; give weights of the published architecture.",
        )

    converted: Counter[str] = Counter()
    state: dict[str, Tensor] = {}
    for name, wanted in expected.items():
        tensor = given[name] if name in given else torch.zeros(wanted.shape, dtype=wanted.dtype)
        if tensor.dtype != wanted.dtype:
            if not (tensor.is_floating_point() and wanted.is_floating_point()):
                raise CheckpointError(
                    f"{name} in {checkpoint.path} is {_dtype(tensor)}, expected {_dtype(wanted)}",
                    "Give weights that were not quantized: float32, float16 or bfloat16.",
                )
            converted[_dtype(tensor)] += 1
            tensor = tensor.to(wanted.dtype)
        if not before:
            _refuse_non_finite(name, tensor, checkpoint.path)
        state[name] = tensor
    if not before:
        _refuse_damage(checkpoint, state, variant)
        remember_checked(file, what)
    network.load_state_dict(state, assign=True)
    unexpected = tuple(name for name in given if name not in expected and not name.endswith(variant.recomputed))
    taken, others = ("", ()) if checkpoint.asked else (checkpoint.key, checkpoint.others)
    return LoadReport(len(expected) - len(absent), tuple(absent), unexpected, dict(converted), taken, others)


def load_network(path: Path, variant: Variant) -> "tuple[nn.Module, Checkpoint, LoadReport]":
    """The variant's network with the weights of the file, float32, on the CPU, in evaluation mode, without gradients.

    Weights that are float32 in the file stay in it, memory-mapped. Raises CheckpointError as the two steps do.
    """
    checkpoint = read_checkpoint(path, variant)
    with torch.device("meta"):
        network = variant.build()
    if {name for name, _ in network.named_buffers()} - network.state_dict().keys():
        network = variant.build()  # buffers that no checkpoint holds must be computed, not allocated
    report = load_into(network, checkpoint, variant)
    return network.eval().requires_grad_(False), checkpoint, report


_Fits = Callable[[Mapping[str, tuple[int, ...]]], bool]
_Read = tuple[Found, tuple[str, ...], dict[str, Tensor], dict[str, int], tuple[str, ...]]
"""What was taken, keys of what else fits, tensors by bare name, their first bytes, foreign Python names."""


def _read_safetensors(path: Path, fits: _Fits, key: str) -> _Read:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged safetensors file ({path.stat().st_size} bytes): "
            f"{str(error).splitlines()[0]}",
            "Download or copy it again and compare its size with the source.",
        ) from error
    found, others = find_state_dict(stored, fits, key)
    if found is None:
        raise _nothing(path, key, others, CheckpointError(f"{path} holds no tensors", RESAVE))
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        header = json.loads(raw.read(length))  # safe_open has checked it
    first = {id(tensor): 8 + length + int(header[name]["data_offsets"][0]) for name, tensor in stored.items()}
    state = dict(found.leaves)
    return found, others, state, {name: first[id(tensor)] for name, tensor in state.items()}, ()


def _read_pickled(path: Path, fits: _Fits, key: str) -> _Read:
    file = read_torch_file(path)
    found, others = find_state_dict(file.tree, fits, key)
    if found is None:
        foreign = f"; objects that were not loaded: {_some(file.ignored)}" if file.ignored else ""
        nothing = CheckpointError(
            f"{path} holds no tensors where a state dict has them: {_describe(file.tree)}{foreign}",
            "Expected a state dict, or one under " + ", ".join(f"'{each}'" for each in WRAPPERS[:3]) + f". {RESAVE}",
        )
        raise _nothing(path, key, others, nothing)
    try:
        state = {name: file.tensor(leaf) for name, leaf in found.leaves.items()}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}", error.next_step) from error
    starts = {name: file.start(leaf) for name, leaf in found.leaves.items() if isinstance(leaf, StoredTensor)}
    return found, others, state, starts, file.ignored


def _nothing(path: Path, key: str, others: tuple[str, ...], otherwise: CheckpointError) -> CheckpointError:
    """The error when nothing was found, by key or at all."""
    if not key:
        return otherwise
    named = [each for each in others if each]
    return CheckpointError(
        f"{path} holds no weights of a known model under '{key}'",
        f"It has them under: {_some(named)}" if named else "Leave --weights-key out.",
    )


def _describe(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a mapping with the keys {_some(map(str, tree))}" if tree else "an empty mapping"
    if isinstance(tree, StoredTensor):
        return "a single tensor without a name"
    return "a Python object" if tree is Ignored else f"a {type(tree).__name__}"


def _foreign(ignored: tuple[str, ...]) -> str:
    """Tensor classes of other libraries come out as nothing; who lacks tensors should know of them."""
    return f" (objects of the file that were not loaded: {_some(ignored)})" if ignored else ""


def _refuse_code(checkpoint: Checkpoint) -> None:
    for name in checkpoint.ignored:
        module, _, attribute = name.rpartition(".")
        builtin = module in ("builtins", "__builtin__") and attribute in _CODE_BUILTINS
        if builtin or _CODE_MODULES.intersection(module.split(".")):
            raise CheckpointError(
                f"{checkpoint.path} carries code: its pickle asks for {name}. Nothing of it was run",
                "Do not load this file elsewhere. Get the weights from a source you trust, best as .safetensors.",
            )


def _refuse_other_variant(checkpoint: Checkpoint, variant: Variant) -> None:
    shapes = _shapes(checkpoint)
    if variant.fits(shapes):
        if not allows(checkpoint.path.stem, variant.published_files):
            named = _named(checkpoint.path, fitting_variants(shapes)) or [variant]
            uses = " or ".join(f"--model {each.name}" for each in named if each is not variant)
            raise CheckpointError(
                f"{checkpoint.path} is named as {_or(named)} was published, --model says {variant.name}: "
                f"{variant.cannot_tell}",
                f"Use: {uses}. If the name is wrong, rename the file." if uses else "If the name is wrong, rename it.",
            )
        return
    fitting = fitting_variants(shapes)
    if not fitting:
        raise CheckpointError(
            f"{checkpoint.path} is of no known model, expected {variant.name}. "
            f"Its {len(checkpoint.state_dict)} tensors ({checkpoint.wrapper}): {_some(checkpoint.state_dict)}",
            "See: cdm-export models",
        )
    raise CheckpointError(
        f"checkpoint is {_or(fitting)}, --model says {variant.name} ({checkpoint.path})",
        f"Use: --model {fitting[0].name}" if len(fitting) == 1 else "Say which it is with --model.",
    )


def _named(path: Path, variants: Iterable[Variant]) -> list[Variant]:
    """Those of the variants that a file of this name can be; all of them for a name that says nothing."""
    return [variant for variant in variants if allows(path.stem, variant.published_files)]


def _or(variants: Iterable[Variant]) -> str:
    return " or ".join(variant.name for variant in variants)


def _refuse_non_finite(name: str, tensor: Tensor, path: Path) -> None:
    if not tensor.numel() or not tensor.is_floating_point():
        return
    low, high = torch.aminmax(tensor)  # NaN goes through both; no temporary of the tensor's size
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise CheckpointError(
            f"{name} in {path} holds NaN or infinity; expected finite weights",
            "Training diverged, or the numbers do not fit float32: give another checkpoint.",
        )


def _refuse_damage(checkpoint: Checkpoint, state: Mapping[str, Tensor], variant: Variant) -> None:
    """Weights that were never written, where name, shape and number are right. ``state``: what the network takes."""
    read = {
        name: tensor
        for name, tensor in state.items()
        if name in checkpoint.state_dict and not any(part in name for part in variant.unused_parameters)
    }
    file = split_checkpoint(checkpoint.path)[0]
    starts = {name: start for name, start in checkpoint.starts.items() if name in read}
    damages = find_damage(read)
    known = {damage.name for damage in damages}
    damages += [damage for damage in find_zero_tail(file, read, starts) if damage.name not in known]
    if damages:
        raise CheckpointError(
            f"{checkpoint.path} is damaged: {len(damages)} of {len(read)} tensors hold what no training ends with: "
            f"{_some(map(str, damages))}",
            DOWNLOAD_AGAIN,
        )


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    """By name, those of tensors that have dimensions."""
    return {name: shape for name, tensor in checkpoint.state_dict.items() if (shape := shape_of(tensor))}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
