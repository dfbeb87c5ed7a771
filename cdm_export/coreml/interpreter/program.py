"""Read a saved package: its files, its program, its values and operations. Nothing in it is trusted."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cdm_export.coreml.convert import MODULES_KEY, import_coremltools, node_of
from cdm_export.runtimes.errors import BundleError

DTYPES: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int32": torch.int32,
    "bool": torch.bool,
    "int4": torch.int8,
    **{f"uint{bits}": torch.uint8 for bits in (1, 2, 3, 4, 6)},
}
"""Type of a program's values -> type they are held in."""
_EXPORT_AGAIN = "Export the bundle again, or copy it from where it was made."


@dataclass(frozen=True)
class Reference:
    """Another operation's value, or an input."""

    name: str


Operand = Reference | Tensor | float | int | bool | str | tuple["Operand", ...]


@dataclass(frozen=True)
class ValueType:
    """A value of the program."""

    name: str
    """Name in the program."""
    dtype: str
    """``fp16``, ``fp32``, ``int32``, ..."""
    shape: tuple[int, ...]
    """Static."""


@dataclass(frozen=True)
class Operation:
    """One operation of the program."""

    kind: str
    """Type, e.g. ``conv``."""
    inputs: Mapping[str, Operand]
    """By parameter name; what was not given is missing."""
    outputs: tuple[ValueType, ...]
    """What it makes."""

    @property
    def name(self) -> str:
        """That of its first value."""
        return self.outputs[0].name

    def reads(self) -> Iterator[str]:
        """Names of the values it reads."""
        for operand in self.inputs.values():
            for part in operand if isinstance(operand, tuple) else (operand,):
                if isinstance(part, Reference):
                    yield part.name


@dataclass(frozen=True)
class Program:
    """What a package computes."""

    inputs: tuple[ValueType, ...]
    """Of the main function."""
    outputs: tuple[str, ...]
    """Names of its results."""
    operations: tuple[Operation, ...]
    """In order; constants are operands, not operations."""
    modules: Mapping[str, str]
    """Value -> module of the network, as the exporter noted it; empty when it did not."""
    metadata: Mapping[str, str]
    """What the exporter wrote beside the program."""
    images: Mapping[str, str]
    """Inputs that are 8-bit images, with their color layout."""

    def node_of(self, value: str) -> str:
        """Node of the exported graph that a value comes from."""
        return node_of(value, self.modules)

    def module_of(self, value: str) -> str | None:
        """Module of the network that computes a value."""
        return self.modules.get(self.node_of(value))


def load_program(path: Path) -> Program:
    """Read a package.

    Raises BundleError for a folder that is no package, weights outside it, and a program that does not hold together:
    then the message names the operation.
    """
    specification, weights = _files(path)
    ct = import_coremltools()
    from coremltools.converters.mil.frontend.milproto import load as milproto

    try:
        spec = ct.utils.load_spec(str(specification))
    except Exception as error:  # protobuf's exception types are not public
        raise BundleError(f"{path.name}: its model file cannot be read ({_line(error)})", _EXPORT_AGAIN) from error
    if spec.WhichOneof("Type") != "mlProgram":
        raise BundleError(f"{path.name} holds a {spec.WhichOneof('Type')}, expected an ML Program")
    if list(spec.mlProgram.functions) != ["main"]:
        raise BundleError(f"{path.name} has the functions {sorted(spec.mlProgram.functions)}, expected only 'main'")
    _check_blobs(spec, path, weights)
    try:
        program = milproto.load(spec, spec.specificationVersion, str(weights))
    except Exception as error:  # assertions, type and value errors, whatever its checks raise
        where = _failing_operation(error)
        raise BundleError(
            f"{path.name}: {where or 'its program'} does not hold together: {_line(error)}", _EXPORT_AGAIN
        ) from error
    return _translate(program.functions["main"], spec, path)


def _files(path: Path) -> tuple[Path, Path]:
    """Model file and weights folder, as the package's own manifest names them."""
    try:
        manifest = json.loads((path / "Manifest.json").read_bytes())
        root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is no Core ML package: its Manifest.json says no model", _EXPORT_AGAIN) from error
    inside = PurePosixPath(str(root))
    specification = path / "Data" / inside
    if inside.is_absolute() or ".." in inside.parts or not specification.resolve().is_relative_to(path.resolve()):
        raise BundleError(f"{path.name}: its model '{root}' leads outside the package", _EXPORT_AGAIN)
    if not specification.is_file():
        raise BundleError(f"{path.name}: its model '{root}' is missing", _EXPORT_AGAIN)
    return specification, specification.parent / "weights"


def _check_blobs(spec: Any, path: Path, weights: Path) -> None:
    """The reader looks at the last part of a weight file's name only; Core ML follows all of it."""
    names = {
        value.blobFileValue.fileName
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for operation in block.operations
        for value in (
            *operation.attributes.values(),
            *(
                binding.value
                for argument in operation.inputs.values()
                for binding in argument.arguments
                if binding.WhichOneof("binding") == "value"
            ),
        )
        if value.WhichOneof("value") == "blobFileValue"
    }
    for name in sorted(names):
        file = weights / PurePosixPath(name).name
        if name != f"@model_path/weights/{file.name}" or not file.resolve().is_relative_to(path.resolve()):
            raise BundleError(f"{path.name} wants weights from '{name}', outside the package", _EXPORT_AGAIN)
        if not file.is_file():
            raise BundleError(f"{path.name}: its weights '{name}' are missing", _EXPORT_AGAIN)


def _failing_operation(error: BaseException) -> str:
    """Which operation the reader was at: its exceptions do not say, its frames do."""
    traceback, found = error.__traceback__, ""
    while traceback is not None:
        specification = traceback.tb_frame.f_locals.get("op_spec")
        if specification is not None and hasattr(specification, "outputs"):
            names = ", ".join(output.name for output in specification.outputs)
            found = f"operation '{names}' ({specification.type})"
        traceback = traceback.tb_next
    return found


def _translate(function: Any, spec: Any, path: Path) -> Program:
    from coremltools.converters.mil.mil import types

    def value_type(var: Any) -> ValueType:
        shape = tuple(var.shape) if var.shape is not None else ()
        if not all(isinstance(side, int | np.integer) for side in shape):
            raise BundleError(f"{path.name}: '{var.name}' has no fixed shape, {shape}: such programs are not read")
        return ValueType(var.name, str(types.builtin_to_string(var.dtype)), tuple(int(side) for side in shape))

    constants: dict[str, Operand] = {}

    def operand(var: Any) -> Operand:
        if isinstance(var, list | tuple):
            return tuple(operand(part) for part in var)
        return constants.get(var.name, Reference(var.name))

    operations = []
    for op in function.operations:
        if op.op_type == "const":
            constants[op.outputs[0].name] = _constant(op.outputs[0].val)
            continue
        if op.blocks:
            raise BundleError(f"{path.name}: operation '{op.name}' ({op.op_type}) branches: such programs are not read")
        given = {name: operand(var) for name, var in op.inputs.items() if var is not None}
        operations.append(Operation(op.op_type, given, tuple(value_type(out) for out in op.outputs)))
    metadata = dict(spec.description.metadata.userDefined)
    inputs = tuple(value_type(var) for var in function.inputs.values())
    return Program(
        inputs=inputs,
        outputs=tuple(var.name for var in function.outputs),
        operations=tuple(operations),
        modules=json.loads(metadata.get(MODULES_KEY, "{}")),
        metadata=metadata,
        images=_images(spec, {value.name: value.shape for value in inputs}, path),
    )


def _images(spec: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, str]:
    """Inputs that are fed as images, with the layout of their colors; of what Core ML can feed this program with."""
    images = {}
    for feature in spec.description.input:
        if feature.type.WhichOneof("Type") != "imageType":
            continue
        image = feature.type.imageType
        layout, size = str(image.ColorSpace.Name(image.colorSpace)), (1, 3, image.height, image.width)
        if layout not in ("RGB", "BGR"):
            raise BundleError(f"{path.name}: '{feature.name}' is an image of colors {layout}: such images are not read")
        if image.WhichOneof("SizeFlexibility") or shapes.get(feature.name) != size:
            raise BundleError(
                f"{path.name}: '{feature.name}' is an image of {image.width}x{image.height}, its program reads "
                f"{list(shapes.get(feature.name, ()))}",
                _EXPORT_AGAIN,
            )
        images[feature.name] = layout
    return images


def _constant(value: Any) -> Operand:
    """Python numbers and text as they are, arrays as tensors."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        plain_value: Operand = value.item()
        return plain_value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return _constant(value[()])
    array = np.asarray(value)
    if array.dtype == np.uint16:
        array = array.astype(np.int32)
    return torch.from_numpy(np.array(array, order="C", copy=not array.flags.writeable))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
