"""A bundle appears whole or not at all, whatever kills the export."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdm_export import publish
from cdm_export.runtimes import lock
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.errors import InputError
from parity_tests.conftest import cli


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def build(folder: Path, target: Path, text: str) -> None:
    listed = [{"path": "manifest.json"}]
    (folder / "manifest.json").write_text(json.dumps({"producer": "cdm-export 0", "text": text, "files": listed}))
    publish.publish(folder, target, overwrite=True)


def text_of(target: Path) -> str:
    return json.loads((target / "manifest.json").read_text())["text"]


def test_staging_publishes_or_vanishes(tmp_path):
    target = tmp_path / "a.bundle"
    with publish.staging(target) as folder:
        assert folder.parent.parent == tmp_path, "on the same disk, so that it can be renamed"
        build(folder, target, "one")
    assert leftovers(tmp_path) == ["a.bundle"]
    with pytest.raises(KeyboardInterrupt), publish.staging(target) as folder:
        (folder / "half").touch()
        raise KeyboardInterrupt
    assert leftovers(tmp_path) == ["a.bundle"] and text_of(target) == "one"


@pytest.mark.parametrize("atomic_exchange", [True, False])
def test_overwrite_replaces_whole(tmp_path, monkeypatch, atomic_exchange):
    if not atomic_exchange:
        monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    target = tmp_path / "a.bundle"
    for text in ("one", "two"):
        with publish.staging(target) as folder:
            build(folder, target, text)
    assert leftovers(tmp_path) == ["a.bundle"] and text_of(target) == "two"


def test_failed_move_brings_the_old_bundle_back(tmp_path, monkeypatch):
    monkeypatch.setattr(publish, "_exchange", lambda one, other: False)
    target = tmp_path / "a.bundle"
    with publish.staging(target) as folder:
        build(folder, target, "one")
    rename = Path.rename

    def failing(self, to):
        if ".partial-" in str(self):
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="No space left"), publish.staging(target) as folder:
        build(folder, target, "two")
    monkeypatch.undo()
    assert text_of(target) == "one" and leftovers(tmp_path) == ["a.bundle"]


def test_targets_that_are_refused(tmp_path):
    bundle = tmp_path / "there.bundle"
    with publish.staging(bundle) as folder:
        build(folder, bundle, "one")
    with pytest.raises(InputError, match="already exists"):
        publish.check_target(bundle, overwrite=False)
    publish.check_target(bundle, overwrite=True)
    (bundle / "engines").mkdir()
    (bundle / "engines" / "verdict.json").touch()
    publish.check_target(bundle, overwrite=True)
    (bundle / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"holds 'thesis\.tex', which is no part of the bundle"):
        publish.check_target(bundle, overwrite=True)
    with pytest.raises(InputError, match="does not exist"):
        publish.check_target(tmp_path / "no" / "where.bundle", overwrite=False)


@pytest.mark.parametrize("manifest", [None, "{}", "[1]", "nonsense", '{"producer": "webpack", "path": "x"}'])
def test_other_folders_are_never_replaced(tmp_path, manifest):
    project = tmp_path / "project"
    project.mkdir()
    (project / "source.txt").write_text("precious")
    if manifest is not None:
        (project / "manifest.json").write_text(manifest)
    with pytest.raises(InputError, match="is not a bundle"):
        publish.check_target(project, overwrite=True)


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_appears_at_the_target_meanwhile_is_kept(tmp_path, overwrite):
    target = tmp_path / "late.bundle"
    with pytest.raises(InputError, match=r"already exists|is not a bundle"), publish.staging(target) as folder:
        (folder / "manifest.json").touch()
        target.mkdir()
        (target / "mine.txt").write_text("precious")
        publish.publish(folder, target, overwrite)
    assert (target / "mine.txt").read_text() == "precious" and leftovers(tmp_path) == ["late.bundle"]


def test_abandoned_folders_are_cleared_but_not_those_of_the_living(tmp_path):
    abandoned, alive, other = (tmp_path / f".{name}.bundle.partial-{number}" for name, number in ("a1", "a2", "b1"))
    for folder in (abandoned, alive, other):
        folder.mkdir()
    for folder in (abandoned, other):
        (folder / lock.LOCK).touch()
    held = lock.hold(alive)
    with publish.staging(tmp_path / "a.bundle"):
        pass
    assert held is not None and not abandoned.exists() and alive.exists() and other.exists()


@pytest.mark.parametrize("name", ["a.bundle", "a**b.bundle", "[a].bundle", "?.bundle", "a" * 240, "ü\n.bundle"])
def test_two_exports_at_once_keep_their_hands_off_each_other(tmp_path, monkeypatch, name):
    """As two containers on one disk, in which everybody is process 1; and names that a pattern would misread."""
    monkeypatch.setattr("os.getpid", lambda: 1)
    target = tmp_path / name
    with publish.staging(target) as one, publish.staging(target) as other:
        (one / "work").touch()
        (other / "work").touch()
        with publish.staging(target):
            pass
        assert (one / "work").exists() and (other / "work").exists()
        build(one, target, "one")
    assert leftovers(tmp_path) == [name] and text_of(target) == "one"


@pytest.mark.parametrize("name", ["a.bundle", "[a].bundle"])
def test_work_of_the_killed_is_cleared_whatever_number_they_had(tmp_path, name):
    """In a container the next process has the number of the one that was killed."""
    code = (
        "import os, signal, sys; from pathlib import Path; from cdm_export import publish; me = os.getpid(); "
        "os.getpid = lambda: os.getppid(); staging = publish.staging(Path(sys.argv[1])); folder = staging.__enter__(); "
        "(folder / 'half').touch(); os.kill(me, signal.SIGKILL)"
    )
    target = tmp_path / name
    killed = subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL and len(leftovers(tmp_path)) == 1
    with publish.staging(target) as folder:
        assert leftovers(tmp_path) == [folder.parent.name]


def test_without_a_lock_a_folder_is_kept_for_a_week(tmp_path):
    """One of an earlier version, or of a disk that cannot lock files, may be at work."""
    new, old = tmp_path / ".a.bundle.partial-1", tmp_path / ".a.bundle.partial-2"
    for folder in (new, old):
        (folder / "onnx").mkdir(parents=True)
    for path in (old / "onnx", old):
        os.utime(path, (time.time() - 8 * 24 * 3600,) * 2)
    with publish.staging(tmp_path / "a.bundle"):
        pass
    assert leftovers(tmp_path) == [new.name]


EXPORT = (
    "export", "--random-weights", "1", "--model", "cdm-vits", "--camera", "160x120", "--input-size", "70",
    "--precision", "fp32", "--frames", "synthetic:1",
)  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("when", ["reference", "export to ONNX", "parity"])
def test_killed_export_leaves_no_half_bundle(tmp_path, how, when):
    target = tmp_path / "killed.bundle"
    process = subprocess.Popen(
        [sys.executable, "-m", "cdm_export", *EXPORT, "-o", str(target)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if when in line:
            break
    time.sleep(0.3)
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how is signal.SIGKILL else 130)
    assert not target.exists()
    if how is not signal.SIGKILL:
        assert leftovers(tmp_path) == []
    else:
        assert all(name.startswith(".killed.bundle.partial-") for name in leftovers(tmp_path))


def test_export_after_a_kill_clears_up_and_works(tmp_path):
    killed = tmp_path / ".again.bundle.partial-1"
    killed.mkdir()
    (killed / lock.LOCK).touch()
    done = cli(*EXPORT, "-o", tmp_path / "again.bundle", "--quiet")
    assert done.returncode == 0, done.stderr
    assert leftovers(tmp_path) == ["again.bundle"]
    Bundle.open(tmp_path / "again.bundle", full=True)
