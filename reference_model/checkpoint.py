"""Published weights into a network, or an error that says why not.

The usual way, ``load_state_dict(strict=False)`` after cutting a fixed number of characters off every name, leaves a
network with random weights and no message when the file is wrapped another way. Here nothing is missing silently.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cdm_export.reference_model.registry import fitting_variants
from cdm_export.reference_model.unpickle import RESAVE, Ignored, StoredTensor, read_torch_file
from cdm_export.reference_model.variant import Variant
from cdm_export.runtimes.errors import CheckpointError
from cdm_export.runtimes.hashing import cached_sha256

if TYPE_CHECKING:
    from torch import nn

_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")
_WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Keys under which training code puts the state dict."""
_PREFIXES = ("module.", "pipeline.", "_orig_mod.")
"""What DataParallel, the Lightning module of the CDM authors and torch.compile put before every name."""
_CODE_MODULES = {
    *("os", "posix", "nt", "subprocess", "commands", "sys", "shutil", "socket", "pty", "ctypes"),
    *("importlib", "runpy", "marshal", "pickle", "_pickle", "code", "codeop", "timeit", "webbrowser"),
    *("multiprocessing", "urllib", "requests", "pip", "hub"),
}
_CODE_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "__import__", "input", "breakpoint"}
"""What no training framework puts into a checkpoint and an attack does. Nothing foreign runs whether it is in here or
not; a file that tries is refused all the same, because its weights cannot be trusted either."""
_SHOWN = 8
"""Names listed in a message before the rest is only counted."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors of a file, as views of it: the file must not be overwritten while they are in use."""

    path: Path
    """The file."""
    sha256: str
    """Hexadecimal, of the whole file."""
    state_dict: dict[str, Tensor]
    """Tensors by their names after unwrapping and stripping."""
    ignored: tuple[str, ...]
    """Foreign Python names met in a pickle, as it spells them; nothing of them was imported or run."""
    wrapper: str
    """How the file wraps its tensors: ``plain``, or such as ``state_dict, prefix 'pipeline.'``."""


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

    def notes(self) -> list[str]:
        """What a person should know, one sentence each; empty when the file fitted without remark."""
        notes = []
        if self.unexpected:
            notes.append(f"{len(self.unexpected)} tensor(s) of the file are not used: {_some(self.unexpected)}")
        if self.absent:
            notes.append(f"{len(self.absent)} tensor(s) the network never reads are absent: {_some(self.absent)}")
        for dtype, count in self.converted.items():
            notes.append(f"{count} tensor(s) were {dtype} in the file and are now float32")
        return notes


def read_checkpoint(path: Path) -> Checkpoint:
    """Read ``.pt``, ``.pth``, ``.ckpt`` (any ``torch.save``) or ``.safetensors``; told apart by content, not by name.

    Raises CheckpointError when the file is missing, damaged, something else, or holds no tensors.
    """
    try:
        _refuse_what_is_no_checkpoint(path)
        with path.open("rb") as file:
            is_safetensors = file.read(9)[8:] == b"{"
        state, where, ignored = _read_safetensors(path) if is_safetensors else _read_pickled(path)
        state, stripped = _strip_prefixes(state)
        wrapper = ", ".join([*where, *(f"prefix '{prefix}'" for prefix in stripped)]) or "plain"
        return Checkpoint(path, cached_sha256(path), state, ignored, wrapper)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


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
        published = _published(checkpoint.path, fitting)
        raise CheckpointError(
            f"{checkpoint.path} can be {_or(fitting)}, and its weights cannot tell: {fitting[0].cannot_tell}",
            f"It is named as {published.name} was published; if it is that, say so: --model {published.name}"
            if published
            else "Say which it is with --model; see: cdm-export models",
        )
    return fitting[0].name


def load_into(network: "nn.Module", checkpoint: Checkpoint, variant: Variant) -> LoadReport:
    """Give the network the checkpoint's tensors themselves (no copy), whatever device it was built on.

    Floating tensors of another dtype are converted to the network's. Raises CheckpointError when the weights are of
    another variant, a tensor is missing, has another shape, or holds NaN or infinity, or when the file carries code.
    """
    _refuse_code(checkpoint)
    _refuse_other_variant(checkpoint, variant)
    expected: dict[str, Tensor] = network.state_dict()
    given = checkpoint.state_dict
    absent = [name for name in expected if name not in given]
    missing = [name for name in absent if not any(part in name for part in variant.unused_parameters)]
    if missing:
        raise CheckpointError(
            f"{checkpoint.path} lacks {len(missing)} of {len(expected)} tensors of {variant.name}: {_some(missing)}",
            "It is incomplete or from other training code. " + RESAVE,
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
        _refuse_non_finite(name, tensor, checkpoint.path)
        state[name] = tensor
    network.load_state_dict(state, assign=True)
    unexpected = tuple(name for name in given if name not in expected)
    return LoadReport(len(expected) - len(absent), tuple(absent), unexpected, dict(converted))


def load_network(path: Path, variant: Variant) -> "tuple[nn.Module, Checkpoint, LoadReport]":
    """The variant's network with the weights of the file, float32, on the CPU, in evaluation mode, without gradients.

    Weights that are float32 in the file stay in it, memory-mapped. Raises CheckpointError as the two steps do.
    """
    checkpoint = read_checkpoint(path)
    with torch.device("meta"):
        network = variant.build()
    if {name for name, _ in network.named_buffers()} - network.state_dict().keys():
        network = variant.build()  # buffers that no checkpoint holds must be computed, not allocated
    report = load_into(network, checkpoint, variant)
    return network.eval().requires_grad_(False), checkpoint, report


def _refuse_what_is_no_checkpoint(path: Path) -> None:
    """Everything that can be told from the name and the first bytes."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected a checkpoint file", "See: cdm-export models")
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if file.suffix in _SUFFIXES)
        raise CheckpointError(
            f"{path} is a directory; expected one file ({', '.join(_SUFFIXES)})",
            f"Give one of its files: {_some(files)}" if files else "It holds no such file.",
        )
    with path.open("rb") as file:
        start = file.read(256)
    size = path.stat().st_size
    if not start:
        raise CheckpointError(f"{path} is empty (0 bytes); expected a checkpoint", "Download or copy it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a git-lfs pointer of {size} bytes, not the weights it points to", "Fetch them: git lfs pull"
        )
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page of {size} bytes, not weights",
            "Download the file itself; on Hugging Face: hf download REPOSITORY FILE",
        )
    if not (start[:2] == b"PK" or start[:1] == b"\x80" or start[8:9] == b"{"):
        raise CheckpointError(
            f"{path} is neither a PyTorch file nor safetensors; it begins with {start[:16]!r}",
            f"Give the trained weights ({', '.join(_SUFFIXES)}).",
        )


_Read = tuple[dict[str, Tensor], list[str], tuple[str, ...]]
"""Tensors by name, the keys they were wrapped in, foreign Python names."""


def _read_safetensors(path: Path) -> _Read:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is a truncated or damaged safetensors file ({path.stat().st_size} bytes): {error}",
            "Download or copy it again and compare its size with the source.",
        ) from error
    if not state:
        raise CheckpointError(f"{path} holds no tensors", RESAVE)
    return state, [], ()


def _read_pickled(path: Path) -> _Read:
    file = read_torch_file(path)
    where: list[str] = []
    tree = file.tree
    while wrapper := next((key for key in _WRAPPERS if isinstance(_entries(tree).get(key), dict)), None):
        where.append(wrapper)
        tree = tree[wrapper]
    state = {name: file.tensor(value) for name, value in _entries(tree).items() if isinstance(value, StoredTensor)}
    if not state:
        foreign = f"; objects that were not loaded: {_some(file.ignored)}" if file.ignored else ""
        raise CheckpointError(
            f"{path} holds no tensors where a state dict has them: {_describe(tree)}{foreign}",
            "Expected a state dict, or one under " + ", ".join(f"'{key}'" for key in _WRAPPERS) + f". {RESAVE}",
        )
    return state, where, file.ignored


def _entries(tree: Any) -> dict[str, Any]:
    """Entries of a mapping with names as keys; nothing for anything else."""
    return {key: value for key, value in tree.items() if isinstance(key, str)} if isinstance(tree, dict) else {}


def _describe(tree: Any) -> str:
    if isinstance(tree, dict):
        return f"a mapping with the keys {_some(map(str, tree))}" if tree else "an empty mapping"
    if isinstance(tree, StoredTensor):
        return "a single tensor without a name"
    return "a Python object" if tree is Ignored else f"a {type(tree).__name__}"


def _strip_prefixes(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Take off, outermost first, every prefix that most names carry, unless two names would become one.

    Names without it belong to something beside the network (a loss, a metric) and stay as they are.
    """
    stripped: list[str] = []
    while True:
        prefix = next((prefix for prefix in _PREFIXES if _share(state, prefix) > 0.5), None)
        bare = {name.removeprefix(prefix or ""): tensor for name, tensor in state.items()}
        if prefix is None or len(bare) < len(state):
            return state, stripped
        state = bare
        stripped.append(prefix)


def _share(state: Mapping[str, Tensor], prefix: str) -> float:
    return sum(name.startswith(prefix) for name in state) / len(state)


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
        published = _published(checkpoint.path, fitting_variants(shapes))
        if published is not None and published.name != variant.name:
            raise CheckpointError(
                f"{checkpoint.path} is named as {published.name} was published, --model says {variant.name}: "
                f"{variant.cannot_tell}",
                f"Use: --model {published.name}. If the name is wrong, rename the file.",
            )
        return
    fitting = fitting_variants(shapes)
    if not fitting:
        raise CheckpointError(
            f"{checkpoint.path} is of no known model, expected {variant.name}. "
            f"Its {len(shapes)} tensors ({checkpoint.wrapper}): {_some(shapes)}",
            "See: cdm-export models",
        )
    raise CheckpointError(
        f"checkpoint is {_or(fitting)}, --model says {variant.name} ({checkpoint.path})",
        f"Use: --model {fitting[0].name}" if len(fitting) == 1 else "Say which it is with --model.",
    )


def _published(path: Path, variants: Iterable[Variant]) -> Variant | None:
    """The variant under whose published file name these weights lie; None for any other name."""
    return next((variant for variant in variants if path.stem.lower() in variant.published_files), None)


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


def _shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in checkpoint.state_dict.items()}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _some(names: Iterable[str]) -> str:
    """First names, and how many more there are."""
    listed = list(names)
    more = f", and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
