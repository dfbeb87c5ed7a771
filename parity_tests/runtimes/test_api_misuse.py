"""What Python callers get wrong raises our errors, which speak of arguments, not of the command line's options."""

import os

import numpy as np
import pytest

import cdm_export
from cdm_export.runtimes.errors import BundleError, InputError, RuntimeMisuse
from parity_tests.old_bundle import OLD

RGB = np.zeros((56, 84, 3), np.uint8)
DEPTH = np.ones((56, 84), np.float32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"rgb": RGB.tolist()}, "rgb must be a NumPy array, got list"),
        ({"rgb": None}, "rgb must be a NumPy array, got NoneType"),
        ({"rgb": "image.png"}, "rgb must be a NumPy array, got str"),
        ({"rgb": RGB, "depth": DEPTH.tolist()}, "depth must be a NumPy array"),
        ({"rgb": RGB, "right": [1]}, "right must be a NumPy array"),
        ({"rgb": RGB, "captured_at": "x"}, "captured_at must be"),
        ({"rgb": RGB, "captured_at": float("nan")}, "captured_at must be"),
        ({"rgb": RGB, "captured_at": True}, "captured_at must be"),
    ],
)
def test_frames(arguments, words):
    with pytest.raises(InputError, match=words):
        cdm_export.Frame(**arguments)
    cdm_export.Frame(RGB, DEPTH, captured_at=np.float64(1))


@pytest.mark.parametrize("bundle", [None, 5, b"a.bundle", "\0", "a\0b", "", ["a"], object()])
def test_bundles_that_are_no_paths(bundle):
    with pytest.raises(InputError, match="bundle must be"):
        cdm_export.open(bundle)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"threads": "2"}, "threads must be an int of 0 or more, got str '2'"),
        ({"threads": -1}, "threads must be an int of 0 or more, got -1"),
        ({"threads": 1.0}, "threads must be"),
        ({"threads": True}, "threads must be"),
        ({"threads": None}, "threads must be an int of 0 or more, got None"),
        ({"batch": 0}, "batch must be an int of 1 or more"),
        ({"batch": "1"}, "batch must be"),
        ({"max_depth": "x"}, "max_depth must be a number of meters, got str 'x'"),
        ({"max_depth": 0}, "max_depth must be above 0 meters"),
        ({"far": float("inf")}, "far must be above 0 meters and at most 100000, got inf"),
        ({"far": float("nan")}, "far must be above 0"),
        ({"far": [1]}, "far must be a number"),
        ({"backend": None}, "backend must be a str, got None"),
        ({"precision": 3}, "precision must be a str, got int 3"),
        ({"checkpoint": 3, "backend": "torch"}, "checkpoint must be a path"),
        ({"checkpoint": "nope.pth", "backend": "onnxruntime"}, "onnxruntime would not read nope.pth"),
    ],
)
def test_arguments_of_open(arguments, words):
    with pytest.raises(InputError, match=words) as caught:
        cdm_export.open(OLD, **arguments)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
def test_after_close(backend, small_bundle):
    model = cdm_export.open(small_bundle, backend=backend)
    model.close()
    model.close()
    frame = cdm_export.Frame(np.zeros((120, 160, 3), np.uint8), np.ones((120, 160), np.float32))
    for action in (model.describe, lambda: model(frame), lambda: model.many([frame])):
        with pytest.raises(RuntimeMisuse, match="closed"):
            action()


@pytest.mark.parametrize("given", [None, (RGB, DEPTH), RGB, "frame", 5])
def test_calls_with_something_else_than_a_frame(given):
    with cdm_export.open(OLD, backend="onnxruntime", threads=np.int64(1), far=np.float32(20)) as model:
        for action in (lambda: model(given), lambda: model.many(given), lambda: model.many([given])):
            with pytest.raises(InputError, match=r"cdm_export\.Frame") as caught:
                action()
            assert "cdm_export.Frame(rgb=" in str(caught.value)
        for inputs in (None, [RGB], {"image": RGB.tolist(), "inverse_depth": DEPTH}):
            with pytest.raises(RuntimeMisuse):
                model.runtime(inputs)
        assert model(cdm_export.Frame(RGB, DEPTH)).values.shape == (56, 84)


def test_advice_names_arguments():
    with pytest.raises(InputError, match="for the torch reference") as caught:
        cdm_export.open(OLD, backend="onnxruntime", checkpoint="x.pth")
    assert 'backend="torch"' in str(caught.value)
    with pytest.raises(cdm_export.CdmExportError) as caught:
        cdm_export.open(OLD, backend="onnxruntime", batch=7)
    assert "--batch" not in str(caught.value) or "cdm-export " in str(caught.value)
    with pytest.raises(cdm_export.CdmExportError) as caught:
        cdm_export.open(OLD, backend="onnxruntime", threads=10_000)
    assert "--" not in str(caught.value)


def test_paths_of_any_kind_open():
    class Somewhere(os.PathLike):
        def __fspath__(self):
            return str(OLD)

    for path in (OLD, str(OLD), Somewhere()):
        cdm_export.open(path, backend="onnxruntime", warmup=False).close()
    with pytest.raises(BundleError, match="no such folder"):
        cdm_export.open("nowhere.bundle")


@pytest.mark.parametrize("arguments", [("a", 2), (1, "b"), (None, 2), (2, 1), (0, 1), (1, float("inf")), (-1, 1)])
def test_known_ranges(arguments):
    with pytest.raises(InputError):
        cdm_export.KnownRange(*arguments)


@pytest.mark.parametrize("arguments", [{"max_depth": "x"}, {"max_depth": -1}, {"far": float("inf")}, {"far": None}])
def test_alignments(arguments):
    with pytest.raises(InputError, match="must be"):
        cdm_export.SensorAlignment(**arguments)
