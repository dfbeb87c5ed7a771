"""Shared pieces: a miniature CDM that runs in milliseconds, frames, an exported bundle, a cache of its own."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import settings

from cdm_export.runtimes.contract import ModelContract, Size
from cdm_export.runtimes.frame import Frame
from parity_tests.coreml_bundle import coreml_bundle, edited, together  # noqa: F401 fixtures
from parity_tests.once import once

settings.register_profile("reproducible", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("reproducible")  # a change is judged by the same examples every time; at home they roam

# In a background job, or under nohup, they are ignored; processes that tests start, and interrupt, inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

REQUIRED = "CDM_EXPORT_REQUIRE"
"""Environment variable: libraries, separated by commas, without which the run is an error and not a row of skips."""


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to run, or to skip in silence, where a library is missing that somebody requires."""
    required = [name for name in os.environ.get(REQUIRED, "").split(",") if name]
    if missing := [name for name in required if find_spec(name) is None]:
        raise pytest.UsageError(f"${REQUIRED} names what is not installed here: {', '.join(missing)}")


SHARED_FRAMES = Path(__file__).parents[2] / "shared" / "data" / "rgbd"
"""Real RGB-D frames of a developer's checkout; the project must not need them."""
needs_shared_frames = pytest.mark.skipif(not SHARED_FRAMES.is_dir(), reason="the shared RGB-D frames are not here")
CAMERA = Size(160, 120)
"""Of the small bundles."""


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory):
    """Tests neither read nor write the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("CDM_EXPORT_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture
def frame() -> Callable[[Size], Frame]:
    """A synthetic frame of any size."""
    from cdm_export.runtimes.sources import open_source

    return lambda size: open_source("synthetic:1", camera=size).load(0).frame


@pytest.fixture
def contract() -> ModelContract:
    """Contract of a vits bundle small enough for quick runs: camera 160x120, network 98x70."""
    from cdm_export.reference_model.registry import get_variant

    return get_variant("cdm-vits").contract("cdm-vits", CAMERA, 70)


@pytest.fixture(scope="session")
def mini_variant():
    """A CDM of two blocks and 28 channels with everything a real one has, hooks on both blocks used twice."""
    from cdm_export.reference_model.cdm.config import CdmConfig
    from cdm_export.reference_model.cdm.network import Cdm
    from cdm_export.reference_model.config import DptConfig, VitConfig
    from cdm_export.reference_model.registry import get_variant

    def build(ffn="mlp"):
        return Cdm(CdmConfig(VitConfig(64, 4, 1, (0, 1, 2, 3), ffn), DptConfig(16, (8, 12, 16, 20))))

    return replace(get_variant("cdm-vits"), name="cdm-mini", build=build)


def write_frame(folder: Path, stem: str, frame: Frame) -> tuple[Path, Path]:
    """STEM.color.png and STEM.depth.png (16-bit mm) in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    color, depth = folder / f"{stem}.color.png", folder / f"{stem}.depth.png"
    cv2.imwrite(str(color), cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR))
    assert frame.depth is not None
    cv2.imwrite(str(depth), np.rint(frame.depth * 1000).astype(np.uint16))
    return color, depth


@pytest.fixture
def pair(tmp_path: Path, frame: Callable[[Size], Frame]) -> tuple[Path, Path]:
    """Color and depth image for the small bundles."""
    return write_frame(tmp_path / "in", "a", frame(CAMERA))


def cli(
    *arguments: object,
    timeout: float = 600,
    environment: Mapping[str, str] | None = None,
    process: bool = False,
) -> subprocess.CompletedProcess[str]:
    """The command line, as a user runs it: exit code, standard output and standard error.

    In this process, which spares the seconds that an interpreter and its imports take; in one of its own with
    ``process``, or with ``environment``, which adds variables.
    """
    words = [str(argument) for argument in arguments]
    if process or environment:
        return subprocess.run(
            [sys.executable, "-m", "cdm_export", *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, **(environment or {})},
        )
    from cdm_export.cli import run_command

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    out, err = io.StringIO(), io.StringIO()
    try:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setenv("COLUMNS", "80")  # as without a terminal
            code = run_command(words)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """The exit code, an error in words, no traceback, nothing on standard output."""
    assert done.returncode == code, (done.returncode, done.stderr)
    text = " ".join(done.stderr.split())
    for word in words:
        assert word in text, text
    assert "Traceback" not in text and done.stdout == ""


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real exported bundle: cdm-vits, seeded weights, camera 160x120, network 98x70. Copy it before changing it."""

    def export(out: Path) -> None:
        done = cli(
            "export", "--random-weights", 1, "--model", "cdm-vits", "--camera", "160x120", "--input-size", 70,
            "--frames", "synthetic:2", "--precision", "fp32", "-o", out, "--quiet",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "small.bundle", export)


@pytest.fixture(scope="session")
def typed_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, which keeps well inside every gate, with FP16 and BF16 graphs; network 126x98."""

    def export(out: Path) -> None:
        done = cli(
            "export", "--model", "cdm-vitt", "--camera", "160x120", "--input-size", 98, "--frames", "sample", "--fit",
            "--precision", "fp32,fp16,bf16", "-o", out, "--quiet",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, "typed.bundle", export)
