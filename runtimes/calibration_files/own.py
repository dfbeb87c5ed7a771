"""Our own JSON: every field of ``Intrinsics`` or ``StereoCalibration`` by its name; pixels and meters."""

from typing import Any

from cdm_export.runtimes.calibration import Calibration, Distortion, Intrinsics, Matrix, StereoCalibration
from cdm_export.runtimes.calibration_files.matrices import size_of
from cdm_export.runtimes.calibration_files.node import Node
from cdm_export.runtimes.contract import Size
from cdm_export.runtimes.errors import did_you_mean

FORMAT = "cdm-export calibration 1"
_CAMERA = ("fx", "fy", "cx", "cy", "width", "height", "distortion")
_PAIR = ("left", "right", "baseline", "rotation", "translation")


def fits(tree: Node) -> bool:
    """Whether it says so."""
    return "format" in tree


def read(tree: Node, size: Size | None = None, raw: bool = False) -> Calibration:
    """One camera or two, whose kind of images the file decides. Raises InputError for a field that is unknown too."""
    if "format" in tree and tree["format"].text != FORMAT:
        raise tree["format"].error(
            f"format is '{tree['format'].text[:40]}', expected '{FORMAT}'", "Read it with the version that wrote it."
        )
    if "left" not in tree:
        return _camera(tree, "format")
    _refuse_unknown(tree, ("format", *_PAIR))
    left, right = _camera(tree["left"]), _camera(tree["right"])
    baseline = tree["baseline"].number if "baseline" in tree else None
    rotation: Matrix | None = None
    if "rotation" in tree:
        rows = tree["rotation"].value
        if not isinstance(rows, list) or len(rows) != 3:
            raise tree["rotation"].error("rotation must be a list of 3 rows")
        rotation = tuple(row.numbers(3) for row in rows)  # type: ignore[assignment]
    translation = tree["translation"].numbers(3) if "translation" in tree else None
    with (tree.get("baseline") or tree).named():
        return StereoCalibration(left, right, baseline, rotation, translation)  # type: ignore[arg-type]


def to_data(calibration: Calibration) -> dict[str, Any]:
    """What ``read`` reads, for JSON."""
    if isinstance(calibration, Intrinsics):
        return {"format": FORMAT, **_data(calibration)}
    pair: dict[str, Any] = {"left": _data(calibration.left), "right": _data(calibration.right)}
    if calibration.rectified:
        return {"format": FORMAT, **pair, "baseline": calibration.baseline}
    return {"format": FORMAT, **pair, "rotation": calibration.rotation, "translation": calibration.translation}


def _data(camera: Intrinsics) -> dict[str, Any]:
    data = {name: getattr(camera, name) for name in _CAMERA if name != "distortion"}
    if camera.distortion is not None:
        data["distortion"] = {
            "model": camera.distortion.model.value,
            "coefficients": list(camera.distortion.coefficients),
        }
    return data


def _camera(tree: Node, *also: str) -> Intrinsics:
    _refuse_unknown(tree, (*_CAMERA, *also))
    size = size_of(tree["width"], tree["height"])
    fx, fy, cx, cy = (tree[name].number for name in ("fx", "fy", "cx", "cy"))
    distortion = None
    if "distortion" in tree:
        lens = tree["distortion"]
        _refuse_unknown(lens, ("model", "coefficients"))
        with lens["model"].named():
            distortion = Distortion(lens["model"].text, lens["coefficients"].numbers())  # type: ignore[arg-type]
    with tree["fx"].named():
        return Intrinsics(fx, fy, cx, cy, size.width, size.height, distortion)


def _refuse_unknown(tree: Node, known: tuple[str, ...]) -> None:
    if not isinstance(tree.value, dict):
        raise tree.error(f"{tree.name or 'this'} must be a mapping of {', '.join(known)}")
    for name, node in tree.value.items():
        if name not in known:
            raise node.error(f"unknown field '{name[:40]}'. {did_you_mean(name, list(known))}")
