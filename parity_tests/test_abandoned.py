"""No worker and no temporary folder outlives the process it belongs to; signals end a command at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdm_export.runtimes import lock
from cdm_export.runtimes.errors import BackendCrashed, CdmExportError, InputError
from cdm_export.runtimes.isolated import Child, run_isolated
from cdm_export.runtimes.temporary import PREFIX, TemporaryFolder
from parity_tests.child_module import Job
from parity_tests.conftest import cli
from parity_tests.old_bundle import tiny_bundle  # noqa: F401 fixture
from parity_tests.places import ROOT

CHILD = "parity_tests.child_module"
linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """A $TMPDIR of the test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


def gone(process: int) -> bool:
    """Whether a process ends within a minute, whatever state the machine is in."""
    for _ in range(600):
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False


PARENT = """
import sys
from parity_tests.child_module import Job
from cdm_export.runtimes.isolated import Child
with Child("parity_tests.child_module", Job(what=sys.argv[1]), "a child") as child:
    print(child.receive()["process"], flush=True)
    if sys.argv[1] == "asked":
        child.ask({"round": 0})
    child.receive()
"""


@linux
@pytest.mark.parametrize("what", ["busy", "asked", "holds the interpreter"])
def test_a_worker_dies_with_its_parent(temporary, what):
    """Killed, the parent tidies nothing up; the next one does."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, what], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert len(list(temporary.iterdir())) == 1
    parent.kill()
    parent.communicate()
    assert gone(worker)
    with TemporaryFolder() as mine:
        assert [str(path) for path in temporary.iterdir()] == [mine]


@linux
def test_a_worker_dies_with_its_parent_before_its_imports_are_done(temporary):
    code = PARENT.replace('print(child.receive()["process"]', "print(child._process.pid")
    parent = subprocess.Popen([sys.executable, "-c", code, "busy"], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert gone(worker)


def test_where_the_system_does_not_tell_a_thread_looks(temporary):
    """As on a Mac."""
    code = (
        "import os, sys, time; from cdm_export.runtimes import lifeline; lifeline._tell_the_system = lambda: False; "
        "lifeline._LOOK_EVERY = 0.05; me = os.getpid(); child = os.fork()\n"
        "if child: print(child, flush=True); time.sleep(600)\n"
        "lifeline.die_with(me); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    assert gone(worker)


def test_abandoned_temporary_folders_go_and_others_stay(temporary, tiny_bundle):  # noqa: F811
    abandoned, alive, strange = (temporary / name for name in (f"{PREFIX}a", f"{PREFIX}b", "other-c"))
    for folder in (abandoned, alive, strange):
        (folder / "sub").mkdir(parents=True)
        (folder / lock.LOCK).touch()
    (alive / lock.LOCK).unlink()
    held = lock.hold(alive)
    victim = temporary.parent / "victim"
    victim.mkdir()
    (victim / lock.LOCK).touch()
    (temporary / f"{PREFIX}link").symlink_to(victim, target_is_directory=True)
    assert cli("inspect", tiny_bundle, "--quiet").returncode == 0
    assert held is not None and not abandoned.exists() and alive.exists() and strange.exists() and victim.exists()
    os.close(held)
    with TemporaryFolder():
        assert not alive.exists()


def test_folders_of_other_users_stay(temporary, monkeypatch):
    theirs = temporary / f"{PREFIX}theirs"
    theirs.mkdir()
    (theirs / lock.LOCK).touch()
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with TemporaryFolder():
        assert theirs.exists()


def test_a_lock_is_never_found_free_while_its_folder_is_made(tmp_path, monkeypatch):
    """Another process may look at any moment."""
    folder = tmp_path / "x-1"
    folder.mkdir()
    rename = Path.rename

    def looked_at(self, to):
        lock.clear_abandoned(tmp_path, "x-")
        assert folder.exists()
        result = rename(self, to)
        lock.clear_abandoned(tmp_path, "x-")
        assert folder.exists()
        return result

    monkeypatch.setattr(Path, "rename", looked_at)
    held = lock.hold(folder)
    assert held is not None
    os.close(held)
    lock.clear_abandoned(tmp_path, "x-")
    assert not folder.exists()


SLOW_IMPORT = """
import os, signal, sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), getattr(signal, sys.argv[-2]))
sys.meta_path.insert(0, Interrupt())
from cdm_export.__main__ import main
sys.argv = ["cdm-export", "models", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("how", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("where", ["cdm_export.cli", "typer", "cdm_export.runtimes.contract", "pydantic"])
def test_a_signal_during_the_first_imports(how, where):
    done = subprocess.run([sys.executable, "-c", SLOW_IMPORT, how, where], capture_output=True, text=True)
    assert done.returncode == 130 and done.stderr == "" == done.stdout


def test_a_command_that_was_told_to_ignore_the_hangup_does():
    """nohup."""
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + SLOW_IMPORT.replace(
        'sys.argv = ["cdm-export", "models", *sys.argv[1:]]', 'sys.argv = ["cdm-export", "models"]'
    )
    done = subprocess.run([sys.executable, "-c", code, "SIGHUP", "typer"], capture_output=True, text=True)
    assert done.returncode == 0 and "cdm-vits" in done.stdout


def test_hardly_anything_is_imported_before_signals_are_looked_after():
    code = "import sys, cdm_export.__main__; print(*sys.modules)"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"typer", "click", "rich", "numpy", "pydantic", "ctypes", "subprocess"} & set(names)


def test_what_a_child_says_and_how_it_ends(temporary):
    said: list[object] = []
    assert run_isolated(CHILD, Job(what="done"), "a child", said.append) == {"what": "done"}
    assert said and list(temporary.iterdir()) == []
    with pytest.raises(BackendCrashed, match=r"a child ended with exit code 7: .*last words \x1b \| r\\xe4"):
        run_isolated(CHILD, Job(what="speaks"), "a child", said.append)
    with pytest.raises(BackendCrashed, match="was killed by SIGKILL: no message"):
        run_isolated(CHILD, Job(what="killed"), "a child", said.append)
    with pytest.raises(InputError, match="could not be written: No space left on device") as full:
        run_isolated(CHILD, Job(what="full"), "a child", said.append)
    assert "/some/where.onnx" in full.value.message and "Free space" in full.value.next_step
    with pytest.raises(CdmExportError, match="not UTF-8"):
        Child(CHILD, Job(what="\udcff"), "a child")
    assert list(temporary.iterdir()) == []


@linux
def test_interrupt_reaches_a_command_at_work(temporary, tiny_bundle):  # noqa: F811
    """No worker and no temporary folder is left, and the exit code is 130."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cdm_export", "bench", tiny_bundle, "--seconds", "600"], stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "opening" in line or "timing" in line or "cold" in line:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130 and list(temporary.iterdir()) == []
