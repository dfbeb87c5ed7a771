"""What runs is what was checked, whoever replaces the bundle meanwhile."""

import itertools
import threading
import time

import numpy as np
import pytest

import cdm_export
from cdm_export.bench import BenchRequest, bench_bundle
from cdm_export.bench import bench as bench_module
from cdm_export.cli import run_command
from cdm_export.parity import verify as verify_module
from cdm_export.progress import Silent
from cdm_export.runtimes import local_results, opening
from cdm_export.runtimes.bundle import Bundle
from cdm_export.runtimes.errors import BundleError
from cdm_export.runtimes.hashing import sha256_of
from parity_tests.engine_bundle import self_test
from parity_tests.tiny_bundle import make_tiny, replace, told

OPENINGS = 200
RUN = ("--backend", "onnxruntime", "--precision", "fp32", "--input", "synthetic:1")


@pytest.fixture
def two(tmp_path):
    """Two bundles, and the place where one of them is published: the first to begin with."""
    sources = make_tiny(tmp_path / "two.bundle", 2), make_tiny(tmp_path / "three.bundle", 3)
    target = tmp_path / "shop" / "model.bundle"
    target.parent.mkdir()
    replace(target, sources[0])
    return target, sources


def test_every_opening_runs_the_graph_its_manifest_vouches_for(two):
    target, sources = two
    stop = threading.Event()

    def replace_for_ever():
        for source in itertools.cycle((sources[1], sources[0])):
            if stop.is_set():
                return
            replace(target, source)
            time.sleep(0.004)

    replacing = threading.Thread(target=replace_for_ever)
    replacing.start()
    wrong, right, refused = [], 0, 0
    try:
        while right < OPENINGS and refused < 20 * OPENINGS:
            try:
                with cdm_export.open(target, "onnxruntime", "fp32", warmup=False) as pipeline:
                    graph, manifest = told(pipeline)
            except BundleError:
                refused += 1
                continue
            right += graph == manifest
            if graph != manifest:
                wrong.append((graph, manifest))
    finally:
        stop.set()
        replacing.join()
    assert not wrong and right == OPENINGS, (len(wrong), right, refused)


def before_loading(monkeypatch, *actions):
    """Between check and load, one action per opening."""
    load, left = opening.load_runtime, iter(actions)

    def act_and_load(*arguments):
        next(left, lambda: None)()
        return load(*arguments)

    monkeypatch.setattr(opening, "load_runtime", act_and_load)


def test_replaced_between_check_and_load_it_is_opened_again(two, monkeypatch):
    target, sources = two
    before_loading(monkeypatch, lambda: replace(target, sources[1]))
    with cdm_export.open(target, "onnxruntime", "fp32") as pipeline:
        assert told(pipeline) == (3, 3)


def test_replaced_every_time_it_is_refused(two, monkeypatch):
    target, sources = two
    before_loading(monkeypatch, lambda: replace(target, sources[1]), lambda: replace(target, sources[0]))
    with pytest.raises(BundleError, match="was replaced or written to while it was opened") as caught:
        cdm_export.open(target, "onnxruntime", "fp32")
    assert caught.value.exit_code == 2 and "same command again" in caught.value.next_step


def test_exchanged_and_put_back_is_noticed(two, monkeypatch):
    """The graph that was loaded has another manifest, although every name means afterwards what it meant before."""
    target, sources = two
    load, aside = opening.load_runtime, target.with_name("aside")

    def exchanged(*arguments):
        target.rename(aside)
        sources[1].rename(target)
        try:
            return load(*arguments)
        finally:
            target.rename(sources[1])
            aside.rename(target)

    monkeypatch.setattr(opening, "load_runtime", exchanged)
    with pytest.raises(BundleError, match="was replaced or written to while it was opened"):
        cdm_export.open(target, "onnxruntime", "fp32")


def test_one_file_that_is_flipped_is_noticed(two, monkeypatch):
    target, sources = two
    graph = target / "onnx" / "fp32.onnx"
    right, foreign = graph.read_bytes(), (sources[1] / "onnx" / "fp32.onnx").read_bytes()
    load = opening.load_runtime

    def flipped(*arguments):
        graph.write_bytes(foreign)
        try:
            return load(*arguments)
        finally:
            graph.write_bytes(right)

    monkeypatch.setattr(opening, "load_runtime", flipped)
    with pytest.raises(BundleError, match=r"fp32\.onnx is not what was checked"):
        cdm_export.open(target, "onnxruntime", "fp32")


def test_a_link_that_is_turned_is_noticed(two, monkeypatch):
    target, sources = two
    link = target.with_name("current")
    link.symlink_to(sources[0])
    load = opening.load_runtime

    def turn(to):
        fresh = link.with_name("fresh")
        fresh.symlink_to(to)
        fresh.replace(link)

    def turned(*arguments):
        turn(sources[1])
        try:
            return load(*arguments)
        finally:
            turn(sources[0])

    monkeypatch.setattr(opening, "load_runtime", turned)
    with pytest.raises(BundleError, match="was replaced or written to while it was opened"):
        cdm_export.open(link, "onnxruntime", "fp32")


def test_results_written_beside_it_meanwhile_are_no_change(two, monkeypatch):
    target, _ = two
    before_loading(monkeypatch, lambda: (target / "engines" / "x").mkdir(parents=True))
    calls = []
    monkeypatch.setattr(opening, "choose", lambda *given, choose=opening.choose: calls.append(1) or choose(*given))
    with cdm_export.open(target, "onnxruntime", "fp32") as pipeline:
        assert told(pipeline) == (2, 2) and len(calls) == 1


def test_half_of_each_is_a_change_and_no_damage(two):
    """Manifest of one, graph of the other: that is no reason to tell somebody to copy the bundle again."""
    target, sources = two
    opened = Bundle.open(target)
    replace(target, sources[1])
    with pytest.raises(BundleError, match="was replaced or written to while it was opened"):
        opened.artifact_file(opened.manifest.artifacts[0])


def test_run_begins_again(two, monkeypatch, tmp_path):
    target, sources = two
    before_loading(monkeypatch, lambda: replace(target, sources[1]))
    out = tmp_path / "x.npy"
    code = run_command(["run", str(target), *RUN, "-o", str(out)])
    assert code == 0 and round(float(np.median(np.load(out)))) == 3


def test_run_that_cannot_be_sure_writes_nothing(two, monkeypatch, tmp_path, capsys):
    target, sources = two
    before_loading(monkeypatch, lambda: replace(target, sources[1]), lambda: replace(target, sources[0]))
    out = tmp_path / "x.npy"
    code = run_command(["run", str(target), *RUN, "-o", str(out)])
    assert code == 2 and "was replaced" in " ".join(capsys.readouterr().err.split()) and not out.exists()


def verified(monkeypatch, *actions):
    """What ``verify`` runs in processes of their own: here it is done by name, each time after an action."""
    left, ran = iter(actions), []

    def check(backend, path, contract, precision, *rest, **options):
        next(left, lambda: None)()
        ran.append(backend)
        return self_test(backend, precision, "passed")

    monkeypatch.setattr(verify_module, "check_backend", check)
    return ran


def test_verify_begins_again_and_remembers_only_what_it_checked(two, monkeypatch):
    target, sources = two
    ran = verified(monkeypatch, lambda: replace(target, sources[1]))
    request = verify_module.VerifyRequest(target, "onnxruntime")
    assert verify_module.verify_bundle(request, Silent()).passed and ran == ["onnxruntime"] * 2
    opened = Bundle.open(target)
    assert local_results.load(opened)["onnxruntime", "fp32"].artifact == opened.manifest.artifacts[0].identity
    ran = verified(monkeypatch, lambda: replace(target, sources[0]), lambda: replace(target, sources[1]))
    with pytest.raises(BundleError, match="was replaced"):
        verify_module.verify_bundle(request, Silent())
    assert local_results.load(Bundle.open(target)) == {}


def test_bench_stores_nothing_of_a_bundle_that_was_replaced(two, monkeypatch):
    target, sources = two
    turns = iter((sources[1], sources[0]))
    monkeypatch.setattr(bench_module, "run_interleaved", lambda *given: replace(target, next(turns)))
    with pytest.raises(BundleError, match="was replaced"):
        bench_bundle(BenchRequest(target, "onnxruntime", frames=1), Silent())
    assert next(turns, None) is None and local_results.find_bench(Bundle.open(target)) is None


def test_a_checkpoint_that_changes_is_noticed(two, tmp_path):
    target, _ = two
    checkpoint = tmp_path / "tiny.pt"
    checkpoint.write_bytes(b"weights")
    opened = Bundle.open(target)
    provenance = opened.manifest.provenance.model_copy(update={"sha256": sha256_of(checkpoint)})
    opened.manifest = opened.manifest.model_copy(update={"provenance": provenance})
    with pytest.raises(BundleError, match=r"tiny\.pt is not what was checked"), opened.steady():
        opening.reference_path(opened, checkpoint)
        checkpoint.write_bytes(b"foreign")
