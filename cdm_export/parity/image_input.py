"""The interface of an artifact that is fed an 8-bit image: its contract, its frames, and what the 8 bits cost.

Its truth is the same network fed the same image, in floats: the reference has no other interface than the bundle's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cdm_export.parity.compare import compare
from cdm_export.parity.golden import ReferenceFrame, load_reference, raw_frame, save_arrays, save_output
from cdm_export.runtimes.bundle import InputLoss
from cdm_export.runtimes.contract import ModelContract, TensorSpec
from cdm_export.runtimes.errors import InputError
from cdm_export.runtimes.processing import preprocess

_UNIT = "red, green, blue, 0..255"


def image_contract(contract: ModelContract) -> ModelContract:
    """The contract of the same network behind an 8-bit image."""
    return contract.model_copy(update={"inputs": tuple(map(_of_levels, contract.inputs))})


def _of_levels(spec: TensorSpec) -> TensorSpec:
    """An image of 8 bits where the input is made of one."""
    if spec.processing is None or not spec.processing.of_image:
        return spec
    processing = spec.processing.model_copy(update={"normalization": "levels"})
    return spec.model_copy(update={"dtype": "uint8", "unit": _UNIT, "processing": processing})


def fit_frame(frame: ReferenceFrame, contract: ModelContract, folder: Path) -> ReferenceFrame:
    """The frame as a contract is fed: itself, or a copy in ``folder`` whose 8-bit images became floats.

    Raises InputError the other way round: the levels would be rounded twice.
    """
    arrays = load_reference(frame.path)
    others = [spec for spec in contract.inputs if arrays[spec.name].dtype != spec.dtype]
    if not others:
        return frame
    if any(spec.dtype != "float32" for spec in others):
        raise InputError(
            f"frame {frame.name} was made for floats, what it is meant for takes an 8-bit image",
            "Compare the other way round.",
        )
    path = folder / f"float-{frame.path.name}"
    floats = {spec.name: arrays[spec.name].astype(np.float32) / np.float32(255) for spec in others}
    save_arrays(path, {**arrays, **floats})
    return ReferenceFrame(frame.name, path)


@dataclass(frozen=True)
class ImageFrames:
    """Frames of an image interface while an export makes them."""

    contract: ModelContract
    """Of the interface."""
    frames: list[ReferenceFrame]
    """With the 8-bit image; the reference's part is added by ``finish``."""
    fed: list[ReferenceFrame]
    """What the reference is fed for them."""

    def finish(self, references: list[ReferenceFrame]) -> InputLoss:
        """Add what the reference made of ``fed``; what that lost against ``references``, the same frames in floats."""
        losses = []
        for frame, fed, reference in zip(self.frames, self.fed, references, strict=True):
            output = load_reference(fed.path)["raw_output"]
            save_output(frame.path, frame.path, self.contract, output)
            exact = load_reference(reference.path)["raw_output"]
            losses.append(compare(frame.name, exact, output, self.contract, "fp16").depth)
        worst = max(losses, key=lambda loss: float("inf") if loss.mean is None else loss.mean)
        figures = worst.model_dump(include=set(InputLoss.model_fields))
        return InputLoss(**figures, error_class=self.contract.semantics.error_class)


def image_frames(references: list[ReferenceFrame], contract: ModelContract, folder: Path, fed: Path) -> ImageFrames:
    """``references`` behind an 8-bit image, in ``folder``; what the reference is fed for them, in ``fed``."""
    behind_image = image_contract(contract)
    frames = []
    for reference in references:
        arrays = load_reference(reference.path)
        path = folder / f"image-{reference.path.name}"
        save_arrays(path, {**arrays, **preprocess(raw_frame(arrays), behind_image)})
        frames.append(ReferenceFrame(reference.name, path))
    return ImageFrames(behind_image, frames, [fit_frame(frame, contract, fed) for frame in frames])
