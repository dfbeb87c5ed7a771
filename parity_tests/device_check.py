"""What a device does with a bundle, in an environment that has the base dependencies and onnxruntime only.

Run by ``device_environment.sh`` as a script, outside the checkout. Plain asserts and the standard library: nothing of
the development environment is here.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np


def command(*arguments: str, expect: int = 0) -> str:
    """Run the installed command; its standard output."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "cdm-export"), *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expect, f"{arguments}: exit code {done.returncode}, expected {expect}\n{done.stderr}"
    return done.stdout if expect == 0 else done.stderr


def main(bundle: str) -> None:
    """Everything a device needs."""
    for absent in ("torch", "onnx", "onnxscript", "openvino", "skimage"):
        assert importlib.util.find_spec(absent) is None, f"{absent} is installed: this is no device environment"
    assert "export" in command("--help")
    found = {finding["subject"]: finding for finding in json.loads(command("doctor", "--json"))}
    assert found["backend onnxruntime"]["status"] == "ok"
    assert found["backend openvino"]["status"] == "missing" and "pip install" in found["backend openvino"]["command"]
    assert "cdm-vitl" in command("models")
    assert json.loads(command("inspect", bundle, "--full", "--json"))["manifest"]["contract"]["model"] == "cdm-vits"
    verified = json.loads(command("verify", bundle, "--json"))
    ran = [(parity["backend"], parity["precision"]) for parity in verified["parity"]]
    assert verified["passed"]
    assert ran == [("onnxruntime", precision) for precision in ("fp32", "fp16", "fp16-attn32")]
    command("run", bundle, "--input", "synthetic:1", "-o", "out", "--json")
    depth = np.load(next(Path("out").glob("*.npy")))
    assert depth.shape == (120, 160) and depth.dtype == np.float32 and (depth > 0).mean() > 0.5
    assert "pip install" in command(
        "run", bundle, "--input", "synthetic:1", "-o", "o", "--backend", "openvino", expect=3
    )
    assert "pip install" in command("export", "x.pt", "--camera", "640x480", "-o", "y.bundle", expect=3)
    assert "python3-libnvinfer" in command("build", bundle, "--target", "tensorrt", expect=3)
    assert found["backend tensorrt"]["status"] == "missing"
    import cdm_export
    from cdm_export.reference_model.weights import bundled_checkpoint

    assert bundled_checkpoint("cdm-vitt") is not None, "the wheel lacks the shipped weights"
    with cdm_export.open(bundle) as refine:
        frame = cdm_export.Frame(np.zeros((120, 160, 3), np.uint8), np.ones((120, 160), np.float32))
        assert refine(frame).depth_m.shape == (120, 160)
    assert not {"torch", "onnx"} & set(sys.modules)
    print(f"device environment on Python {sys.version.split()[0]}: all good")


if __name__ == "__main__":
    main(sys.argv[1])
