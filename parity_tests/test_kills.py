"""Commands that are killed at any moment, as a robot's supervisor or the kernel does: nothing half, nobody left.

``KILLS`` sets how many; the default takes about a minute.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cdm_export.runtimes.bundle import Bundle
from parity_tests.conftest import cli
from parity_tests.places import DATA

OLD = DATA / "bundle-0.1"
KILLS = int(os.environ.get("KILLS", "24"))
MARK = "CDM_EXPORT_KILLED_BY_A_TEST"
LONGEST = 7.0
"""Seconds; an export of this size takes about as long."""


def commands(folder: Path) -> list[tuple[list[str], Path]]:
    """Commands with what they write."""
    bundle = folder / "b.bundle"
    export = ["export", "--model", "cdm-vitt", "--camera", "84x56", "--input-size", "28", "--frames", "synthetic:1",
              "--precision", "fp32", "--quiet"]  # fmt: skip
    return [
        ([*export, "-o", str(folder / "new.bundle")], folder / "new.bundle"),
        ([*export, "--overwrite", "-o", str(folder / "old.bundle")], folder / "old.bundle"),
        (["run", str(bundle), "--input", "synthetic:3", "-o", str(folder / "frames")], folder / "frames"),
        (["verify", str(bundle), "--backend", "onnxruntime"], bundle),
        (["bench", str(bundle), "--backend", "onnxruntime", "--frames", "5", "-o", str(folder / "b.json")], bundle),
    ]


def left_over(identity: str) -> list[psutil.Process]:
    """Processes that the killed command started and that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == identity and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_nothing_half_and_nobody_left(tmp_path):
    chance = random.Random(0)
    shutil.copytree(OLD, tmp_path / "b.bundle")
    shutil.copytree(OLD, tmp_path / "old.bundle")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    signals = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    killed = 0
    for number in range(KILLS):
        command, out = commands(tmp_path)[number % 5]
        identity = f"{os.getpid()}-{number}"
        process = subprocess.Popen(
            [sys.executable, "-m", "cdm_export", *command], env={**environment, MARK: identity},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        sent = chance.choice(signals)
        try:
            process.wait(chance.uniform(0.02, LONGEST))
        except subprocess.TimeoutExpired:
            process.send_signal(sent)
            killed += 1
        _, said = process.communicate(timeout=60)
        assert "Traceback" not in said, (command, sent, said)
        deadline = time.monotonic() + 5
        while (alive := left_over(identity)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive, (command, sent, alive)
        if out.suffix == ".bundle" and out.exists():
            Bundle.open(out, full=True)  # whole, whichever of both it is
        if out.name == "frames" and out.exists():
            stems = {path.name.split(".")[0] for path in out.iterdir()}
            names = {path.name for path in out.iterdir()}
            assert names == {f"{stem}{kind}" for stem in stems for kind in (".npy", ".png", ".view.png")}, names
        shutil.rmtree(tmp_path / "new.bundle", ignore_errors=True)
    assert killed >= 0.5 * KILLS, "most commands were over before the signal came"
    # The next command clears what the killed ones could not.
    for command, _ in commands(tmp_path)[:2]:
        assert cli(*command, environment={"TMPDIR": str(temporary)}).returncode == 0
    assert list(temporary.glob("cdm-export-*")) == []
    kept = {"b.bundle", "old.bundle", "new.bundle", "frames", "tmp", "b.json"}
    assert {path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")} <= kept
