"""The page: complete, self-contained, the same in a browser."""

import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from cdm_export.bench import BenchRequest, bench_bundle
from cdm_export.evaluate.evaluate import EvaluateRequest, evaluate
from cdm_export.progress import Silent
from cdm_export.report.charts import Point, scatter
from cdm_export.runtimes.bundle import Bundle
from parity_tests.conftest import cli

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Sections, table cells, and everything a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.sections, self.fetched, self.cells = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        if tag == "section":
            self.sections.append(named["id"])
        assert tag not in ("script", "link", "iframe", "object", "embed")
        self.fetched += [named[name] for name in ("src", "href", "srcset", "action") if name in named]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The shipped model at two input sizes, the larger one timed."""
    folder = tmp_path_factory.mktemp("report")
    for size in (98, 70):
        done = cli(
            "export", "--model", "cdm-vitt", "--camera", "160x120", "--input-size", size, "--frames", "synthetic:2",
            "--precision", "fp32", "-o", folder / f"{size}.bundle", "-q",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    bench_bundle(BenchRequest(folder / "98.bundle", frames=3), Silent())
    evaluate(EvaluateRequest(str(folder / "98.bundle"), "hidden:synthetic:4", limit=3, fit=True), Silent())
    return folder / "98.bundle", folder / "70.bundle"


@pytest.fixture(scope="module")
def page(bundles, tmp_path_factory):
    out = tmp_path_factory.mktemp("page") / "report.html"
    done = cli("report", bundles[0], "--beside", bundles[1], "-o", out, "--json")
    assert done.returncode == 0 and json.loads(done.stdout) == {"report": str(out)}, done.stderr
    return out


def test_everything_known_is_on_the_page(page):
    text = page.read_text()
    parsed = Page(text)
    assert [section for section in parsed.sections if section != "issues"] == [  # some CPUs have none
        "latency", "tradeoff", "parity", "truth", "sizes", "artifacts", "pictures", "environment"
    ]  # fmt: skip
    assert "openvino fp32" in text and "onnxruntime fp32" in text and "not run (" in text
    assert re.search(r"<td>70</td><td>98x70</td>\s*<td>[\d.]+ mm</td>", text)
    assert text.count("<figure>") == 2 and "against eager float32 PyTorch" in text
    assert not re.search(r"\b(nan|inf|None|Undefined)\b", re.sub(r"base64,[^\"]+", "", text))


def test_ground_truth_is_on_the_page(page):
    text = page.read_text()
    assert "hidden readings of synthetic:4" in text and "abs_rel against torch fp32" in text
    section = text[text.index('id="truth"') :]
    cells = re.findall(r"<td>([+-][\d.e+-]+) ", section[: section.index("</section>")])
    costs = sorted(abs(float(cost)) for cost in cells)
    assert costs[1] < 1e-5 and costs[-1] < 0.01  # FP32 in two libraries; BF16 where the processor has it


def test_nothing_is_fetched(page):
    fetched = Page(page.read_text()).fetched
    assert fetched and all(uri.startswith("data:image/jpeg;base64,") for uri in fetched)
    assert "http://" not in page.read_text() and "https://" not in page.read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("width", [1200, 400])
def test_a_browser_shows_it_and_asks_nobody(page, tmp_path, width):
    log = tmp_path / "net.json"
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", f"--window-size={width},900",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout.count("<circle") == 2 and done.stdout.count('class="fill"') == 2
    assert done.stdout.count("<table") >= 4
    requested = set(re.findall(r'"url":"((?:https?|ftp|ws)://[^"]+)"', log.read_text()))
    assert not {url for url in requested if "google" not in url}, "the page asked for something"


def test_without_a_benchmark_it_says_how_to_get_one(bundles, tmp_path):
    out = tmp_path / "report.html"
    assert cli("report", bundles[1], "-o", out).returncode == 0
    assert "cdm-export bench 70.bundle" in out.read_text() and "tradeoff" not in Page(out.read_text()).sections


def test_names_are_escaped(bundles, tmp_path):
    evil = tmp_path / "evil.bundle"
    shutil.copytree(bundles[1], evil)
    manifest = json.loads((evil / "manifest.json").read_text())
    manifest["name"] = "<script>alert(1)</script>"
    manifest["artefacts"][0] |= {"state": "failed"}
    manifest["artefacts"][0]["verdicts"][0] |= {"verdict": "failed", "reason": "mean <b>2e-3</b> > 5e-06"}
    (evil / "manifest.json").write_text(json.dumps(manifest))
    out = tmp_path / "report.html"
    assert cli("report", evil, "-o", out).returncode == 0
    text = out.read_text()
    assert "<script" not in text and "&lt;script&gt;" in text and "issues" in Page(text).sections
    assert "openvino: mean &lt;b&gt;2e-3&lt;/b&gt; &gt; 5e-06" in text


def test_refusals(bundles, small_bundle, tmp_path):
    other, twin = tmp_path / "bench.json", tmp_path / "twin.bundle"
    shutil.copytree(bundles[0], twin)
    assert cli("bench", bundles[0], "--backend", "onnxruntime", "--frames", 1, "-o", other).returncode == 0
    for arguments, words in (
        ([bundles[1], "--bench", other, "-o", tmp_path / "x.html"], "was measured on another bundle"),
        ([bundles[0], "--beside", small_bundle, "-o", tmp_path / "x.html"], "differ in their weights"),
        ([bundles[0], "--beside", bundles[0], "-o", tmp_path / "x.html"], "are the same bundle"),
        ([bundles[0], "--beside", twin, "-o", tmp_path / "x.html"], "are the same bundle"),
        ([bundles[0], "-o", bundles[0] / "x.html"], "is inside the bundle"),
        ([bundles[0], "-o", tmp_path / "x.pdf"], "written as .html"),
    ):
        done = cli("report", *arguments)
        assert done.returncode == 2 and words in done.stderr, done.stderr
    assert not list(tmp_path.glob("x.*")) and Bundle.open(bundles[0], full=True)


def test_it_says_what_the_weights_are_good_for(page):
    assert "DEMONSTRATION MODEL" in page.read_text()


def test_a_verified_bundle_that_was_not_timed(bundles, tmp_path):
    """Each gate counts once, here and where it was made; no latency of whole frames is claimed."""
    out = tmp_path / "report.html"
    own = tmp_path / "own.bundle"
    shutil.copytree(bundles[1], own)
    assert cli("verify", own, "--backend", "onnxruntime").returncode == 0
    assert cli("report", own, "-o", out).returncode == 0
    card, latency = out.read_text().split('<section id="latency">')[:2]
    assert "fastest that passed here" in card and " ms " not in card
    assert "inference alone of onnxruntime fp32 took" in latency
    assert "<b>2 of 2 passed</b>" in card and latency.count("<td>onnxruntime fp32</td>") == 2


@pytest.mark.parametrize("spread", [1.002, 1.05, 1.5, 8.0, 1e3])
def test_labels_of_an_axis_never_meet(spread):
    plot = scatter([Point("a", 123.4, 1e-6, "passed"), Point("b", 123.4 * spread, 1e-6 * spread, "passed")])
    assert plot is not None and len(plot.x_ticks) >= 2 and len(plot.y_ticks) >= 2
    for before, after in itertools.pairwise(plot.x_ticks):
        assert after.x - 3.5 * len(after.name) > before.x + 3.5 * len(before.name)
    assert all(after.y - before.y >= 12 for before, after in itertools.pairwise(plot.y_ticks))


def test_labels_of_a_scatter_never_meet():
    plot = scatter([Point(f"p{n}", 10 + n / 100, 1.0, "passed") for n in range(6)])
    assert plot is not None and len(plot.x_ticks) >= 2 and len(plot.y_ticks) >= 1
    heights = [point.label_y for point in plot.points]
    assert all(after - before >= 14 for before, after in itertools.pairwise(heights))
    assert scatter([Point("alone", 1, 1, "passed"), Point("exact", 1, 0, "passed")]) is None
