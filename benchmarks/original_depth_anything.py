"""Ours against the original implementations of Depth Anything, as whole pipelines: image to image-sized output.

``python -m benchmarks.original_depth_anything --v1 DIR --v2 DIR [--model NAME ...]``: checkouts of
``LiheYoung/Depth-Anything`` and ``DepthAnything/Depth-Anything-V2``. Both networks get the same seeded weights (ours
strictly loaded into theirs) and the real images of scikit-image's wheel, one of them turned to portrait.
"""

import argparse
import contextlib
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cdm_export.bench.environment import environment
from cdm_export.reference_model.config import DECODERS
from cdm_export.reference_model.depth_anything.config import KINDS, Kind
from cdm_export.reference_model.random_weights import calibrate_range, seeded_network
from cdm_export.reference_model.reference import exact_float32, run_reference
from cdm_export.reference_model.registry import get_variant
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.frame import Frame
from cdm_export.runtimes.processing import at_camera_size, preprocess

RESULT = Path(__file__).parent / "results" / "original_depth_anything.json"
LIMIT = 1e-4
"""Of the output's range (99th minus 1st percentile)."""
Rgb = NDArray[np.uint8]
Image = NDArray[np.float32]


def images() -> dict[str, Rgb]:
    """Real images by name, RGB: square, landscape, portrait, and a strip."""
    from skimage import data

    load: Any = data
    motorcycle = load.stereo_motorcycle()[0][..., :3]
    return {
        "motorcycle": np.ascontiguousarray(motorcycle),
        "astronaut": load.astronaut(),
        "chelsea, portrait": np.ascontiguousarray(np.rot90(load.chelsea())),
        "coffee, strip": np.ascontiguousarray(load.coffee()[140:320]),
    }


def models() -> Iterator[tuple[str, Kind, str]]:
    """Every variant that the originals can build: name, kind, size."""
    return ((f"{kind.name}-{size}", kind, size) for kind in KINDS for size in kind.sizes)


def compare(model: str, kind: Kind, size: str, folders: dict[str, Path], chosen: dict[str, Rgb]) -> dict[str, float]:
    """Largest difference per image, as a share of the original's output range."""
    variant = get_variant(model)
    network = seeded_network(variant, 0)
    first = next(iter(chosen.values()))
    contract = variant.contract(model, Size.of(first))
    inputs = preprocess(Frame(first), contract)
    calibrate_range(network, variant, contract.channel_order, (torch.from_numpy(inputs["image"]),), 0)
    ours = variant.exportable(network, contract.channel_order).eval()
    errors = {}
    with _original(kind, size, folders, network.state_dict()) as theirs:
        for name, rgb in chosen.items():
            contract = variant.contract(model, Size.of(rgb))
            raw = run_reference(ours, contract, preprocess(Frame(rgb), contract))[contract.output.name]
            got, expected = at_camera_size(raw, contract), theirs(rgb)
            low, high = np.percentile(expected, (1, 99))
            errors[name] = float(np.abs(got - expected).max() / (high - low))
            print(f"{model} {name} {Size.of(rgb)}: {errors[name]:.1e} of {high - low:.3g}", flush=True)
    return errors


@contextmanager
def _original(
    kind: Kind, size: str, folders: dict[str, Path], state: dict[str, Any]
) -> Iterator[Callable[[Rgb], Image]]:
    """RGB image -> output at image size, by the original's own code; its modules are forgotten afterwards."""
    folder = folders["v1"] if kind.last_blocks else folders["v2"]
    if kind.max_depth is not None:
        folder = folder / "metric_depth"
    known, here = set(sys.modules), Path.cwd()
    for name, module in _stand_ins().items():
        sys.modules.setdefault(name, module)
    sys.path.insert(0, str(folder))
    os.chdir(folder)  # V1 names its copy of DINOv2 relative to where it is started
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.device("cpu"):
            original = _v1(size, state) if kind.last_blocks else _v2(size, state, kind.max_depth)
        yield original
    finally:
        os.chdir(here)
        sys.path.remove(str(folder))
        for name in set(sys.modules) - known:
            if name.split(".")[0] in ("depth_anything", "depth_anything_v2", "dinov2", "vision_transformer", "hubconf"):
                del sys.modules[name]


def _stand_ins() -> dict[str, types.ModuleType]:
    """For what the originals import and this environment lacks: names for downloading, and a chain of functions."""

    class Compose:
        def __init__(self, steps: list[Callable[[Any], Any]]) -> None:
            self.steps = steps

        def __call__(self, sample: Any) -> Any:
            for step in self.steps:
                sample = step(sample)
            return sample

    names = ("huggingface_hub", "torchvision", "torchvision.transforms")
    hub, vision, transforms = modules = [types.ModuleType(name) for name in names]
    vars(hub).update(PyTorchModelHubMixin=type("PyTorchModelHubMixin", (), {}), hf_hub_download=None)
    vars(transforms).update(Compose=Compose)
    vars(vision).update(transforms=transforms)
    return dict(zip(names, modules, strict=True))


def _sizes(size: str) -> dict[str, Any]:
    decoder = DECODERS[size]
    return {"encoder": size, "features": decoder.features, "out_channels": list(decoder.out_channels)}


def _v2(size: str, state: dict[str, Any], max_depth: float | None) -> Callable[[Rgb], Image]:
    from depth_anything_v2.dpt import DepthAnythingV2  # type: ignore[import-not-found]

    metric = {} if max_depth is None else {"max_depth": max_depth}
    network = DepthAnythingV2(**_sizes(size), **metric).eval()
    network.load_state_dict(state, strict=True)
    return lambda rgb: np.asarray(network.infer_image(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)))


def _v1(size: str, state: dict[str, Any]) -> Callable[[Rgb], Image]:
    from depth_anything.dpt import DPT_DINOv2  # type: ignore[import-not-found]
    from depth_anything.util.transform import NormalizeImage, PrepareForNet, Resize  # type: ignore[import-not-found]

    network = DPT_DINOv2(**_sizes(size)).eval()
    network.load_state_dict(state, strict=True)
    resize = Resize(518, 518, resize_target=False, keep_aspect_ratio=True, ensure_multiple_of=14,
                    resize_method="lower_bound", image_interpolation_method=cv2.INTER_CUBIC)  # fmt: skip
    steps = (resize, NormalizeImage(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]), PrepareForNet())

    def run(rgb: Rgb) -> Image:
        sample = {"image": rgb / 255.0}
        for step in steps:
            sample = step(sample)
        with torch.inference_mode():
            depth = network(torch.from_numpy(sample["image"])[None])
            resized = torch.nn.functional.interpolate(depth[None], rgb.shape[:2], mode="bilinear", align_corners=False)
        return np.asarray(resized[0, 0])

    return run


def main() -> None:
    """Compare, write the result, and fail when a difference exceeds the limit."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--v1", type=Path, required=True)
    parser.add_argument("--v2", type=Path, required=True)
    parser.add_argument("--model", action="append")
    parser.add_argument("--images", type=int, default=4)
    arguments = parser.parse_args()
    folders = {"v1": arguments.v1.resolve(), "v2": arguments.v2.resolve()}
    chosen = dict(list(images().items())[: arguments.images])
    exact_float32()
    errors = json.loads(RESULT.read_text())["largest_error"] if RESULT.exists() else {}
    worst = 0.0
    for model, kind, size in models():
        if arguments.model is not None and model not in arguments.model:
            continue
        errors[model] = compare(model, kind, size, folders, chosen)
        worst = max(worst, *errors[model].values())
        result = {"limit": LIMIT, "largest_error": errors, "environment": environment()}
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if not worst <= LIMIT:
        sys.exit(f"{worst:.1e} of the output range is more than {LIMIT:g}")


if __name__ == "__main__":
    main()
