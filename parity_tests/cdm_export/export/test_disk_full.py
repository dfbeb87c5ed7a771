"""Where there is no room, the error names the file and the next step, and nothing is left half written."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cdm_export import publish
from cdm_export.cli import run_command
from cdm_export.runtimes.cache import naming, write_atomically, write_together
from cdm_export.runtimes.errors import InputError, from_os_error
from parity_tests.child_module import Job
from parity_tests.old_bundle import contents, tiny_bundle  # noqa: F401 fixture

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
from cdm_export.cli import run_command
sys.exit(run_command(sys.argv[2:]))
"""


def limited(size: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A command none of whose files may have more than ``size`` bytes."""
    command = [sys.executable, "-c", LIMITED, str(size), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def said(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr and "no message" not in done.stderr, done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_run_writes_all_files_of_a_frame_or_none(tiny_bundle, tmp_path, backend):  # noqa: F811
    out = tmp_path / "out"
    done = limited(12_000, "run", tiny_bundle, "--input", "synthetic:1", "-o", out, "--backend", backend, "-q")
    said(done, f"{out}/synthetic-0-0000.npy could not be written: File too large", "Free space there")
    assert list(out.iterdir()) == []


def test_verify_says_what_its_worker_could_not_write(tiny_bundle):  # noqa: F811
    """The worker's own word, not its exit code."""
    said(limited(4_000, "verify", tiny_bundle, "--backend", "onnxruntime"), "could not be written", "TMPDIR")


def test_report_and_bench_name_their_file(tiny_bundle, tmp_path):  # noqa: F811
    page = tmp_path / "page.html"
    said(limited(3_000, "report", tiny_bundle, "-o", page), f"{page} could not be written")
    assert not [path for path in tmp_path.iterdir() if path.name != tiny_bundle.name]


def test_several_files_whole_or_none(tmp_path, monkeypatch):
    old, new = tmp_path / "a.npy", tmp_path / "b.png"
    old.write_bytes(b"old")
    write_bytes = Path.write_bytes

    def full(self, data):
        if ".b.png" in self.name:
            write_bytes(self, data[:1])
            raise FULL
        return write_bytes(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_together({old: b"new", new: b"new"})
    assert caught.value.filename == str(new) and contents(tmp_path) == {"a.npy": b"old"}
    monkeypatch.undo()
    write_together({old: b"new", new: b"new"})
    assert contents(tmp_path) == {"a.npy": b"new", "b.png": b"new"}


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 120, "東" * 80, "a**b[c].json"])
def test_names_as_long_as_a_disk_takes(tmp_path, name):
    write_atomically(tmp_path / name, b"text")
    assert contents(tmp_path) == {name: b"text"}


def test_the_system_in_our_words():
    error = from_os_error(FULL, "output", "choose another -o")
    assert str(error) == "output could not be written: No space left on device\nFree space there, or choose another -o."
    with pytest.raises(OSError, match="2 requested and 0 written") as caught, naming(Path("a.npy")):
        raise OSError("2 requested and 0 written")  # NumPy's way to say it
    assert "a.npy could not be written" in str(from_os_error(caught.value))
    other = from_os_error(OSError(errno.EACCES, "Permission denied", b"caf\xe9"))
    assert "Permission denied" in other.message and other.next_step == ""


def test_a_bundle_that_finds_no_room(tmp_path):
    with pytest.raises(InputError, match="No space left") as caught, publish.staging(tmp_path / "a.bundle") as folder:
        (folder / "half").touch()
        raise FULL
    assert "a.bundle" in caught.value.message and "choose another -o" in caught.value.next_step
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_that_takes_nothing(tmp_path, tiny_bundle, monkeypatch, capsys):  # noqa: F811
    from cdm_export.runtimes.isolated import Child

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
    with pytest.raises(InputError, match="not there") as caught:
        Child("parity_tests.child_module", Job(what="done"), "a child")
    assert caught.value.exit_code == 2
    assert run_command(["verify", str(tiny_bundle)]) == 2
    assert "not there" in capsys.readouterr().err


def _can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "x", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _can_mount(), reason="no disk of its own can be mounted here")
@pytest.mark.parametrize("size", ["4k", "8k"])
def test_a_full_temporary_disk(tiny_bundle, tmp_path, size):  # noqa: F811
    """Too small for what the worker makes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size="$1" x "$2"; export TMPDIR="$2"; shift 2; exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", size, disk, sys.executable, "-m", "cdm_export", "verify",
         tiny_bundle, "--backend", "onnxruntime", "-q"], capture_output=True, text=True,
    )  # fmt: skip
    said(done, "could not be written", str(disk), "TMPDIR")
