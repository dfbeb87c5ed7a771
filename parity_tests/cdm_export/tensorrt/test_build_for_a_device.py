"""``build --target tensorrt`` from end to end, on a machine that is made to look like a Jetson.

The driver and the CUDA runtime are small C libraries, TensorRT is TensorRT-RTX under TensorRT's name: what builds is
real, what runs is refused by the library, as it has no GPU. So every engine fails its self-test, and everything that
has to happen then does.
"""

import json
import os
import shutil
import subprocess

import pytest

from parity_tests.conftest import cli
from parity_tests.engine_bundle import make_bundle

DRIVER = """
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 0; return 0; }
int cuDeviceGetName(char *name, int length, int device) { strncpy(name, "Orin", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)8 << 30; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18;
    return 0;
}
"""
RUNTIME = """
int cudaSetDevice(int device) { return STARTS; }
int cudaStreamCreateWithFlags(void **stream, unsigned flags) { *stream = (void *)7; return 0; }
int cudaStreamDestroy(void *stream) { return 0; }
int cudaEventCreate(void **event) { *event = (void *)9; return 0; }
int cudaEventDestroy(void *event) { return 0; }
"""
LIBRARY = 'from tensorrt_rtx_bindings import *\n__version__ = "10.3.0"\n'


@pytest.fixture
def jetson(tmp_path):
    """Environment of a process; the CUDA runtime answers ``starts`` when the device is set."""
    pytest.importorskip("tensorrt_rtx_bindings")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "tensorrt.py").write_text(LIBRARY)

    def environment(starts: int) -> dict[str, str]:
        libraries = tmp_path / f"libraries-{starts}"
        libraries.mkdir()
        for name, source in (("libcuda.so.1", DRIVER), ("libcudart.so.12", RUNTIME), ("libcudart.so.13", RUNTIME)):
            file = tmp_path / "source.c"
            file.write_text(source)
            subprocess.run(
                [compiler, "-shared", "-fPIC", f"-DSTARTS={starts}", "-o", libraries / name, file], check=True
            )  # fmt: skip
        return {
            "LD_LIBRARY_PATH": f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}",
            "PYTHONPATH": str(modules),
            "CDM_EXPORT_CACHE": str(tmp_path / "cache"),
        }

    return environment


def test_every_fallback_is_tried_and_every_failure_kept_aside(jetson, tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    environment = jetson(0)
    done = cli("build", bundle.path, "--target", "tensorrt", environment=environment)
    assert done.returncode == 1
    tried = [line for line in done.stderr.splitlines() if "does not run: TensorRT 10.3.0 refuses the engine" in line]
    notes = [line.split(":")[1].strip() for line in tried if line.startswith("note: ")]
    assert notes == ["fp16", "fp16-attn32", "fp16 with fusion-breaker", "fp32"]
    assert "known with TensorRT 10.3: ViT encoders wrong in half precision" in done.stderr
    folder = bundle.path / "engines" / f"trt-10.3.0-sm87-cuda12.6-{_system()}-Orin"
    assert sorted(path.name for path in folder.iterdir()) == ["fp16-attn32-failed", "fp16-failed", "fp32-failed"]
    record = json.loads((folder / "fp16-failed" / "engine.json").read_text())
    assert record["state"] == "failed" and record["settings"]["remedy"] == "fusion-breaker"
    assert record["machine"]["gpu"]["integrated"] and record["settings"]["workspace"] == 1 << 30
    assert [path.name for path in (tmp_path / "cache" / "timing").iterdir()] == ["10.3.0-sm8.7-cuda12.6-Orin.cache"]
    run = cli(
        "run", bundle.path, "--backend", "tensorrt", "--input", "synthetic:1", "-o", tmp_path / "x.npy",
        environment=environment,
    )  # fmt: skip
    assert run.returncode == 3 and "it failed" in run.stderr and "cdm-export build" in run.stderr


def test_machine_whose_cuda_does_not_start_is_no_fault_of_the_engine(jetson, tmp_path):
    bundle = make_bundle(tmp_path / "tiny.bundle")
    done = cli("build", bundle.path, "--target", "tensorrt", environment=jetson(35))
    assert done.returncode == 3 and "CUDA does not start (libcudart)" in done.stderr and "error 35" in done.stderr
    assert not list((bundle.path / "engines").glob("trt-*"))


def test_doctor_there(jetson):
    found = {one["subject"]: one for one in json.loads(cli("doctor", "--json", environment=jetson(0)).stdout)}
    assert "Orin (sm87, CUDA 12.6)" in found["CUDA driver"]["detail"]
    assert found["CUDA functions"]["detail"] == "through libcudart"
    assert found["memory to build"]["status"] in ("ok", "problem")
    assert found["backend tensorrt"]["status"] == "ok"


def _system() -> str:
    from cdm_export.runtimes.nvidia import system_name

    return system_name()
