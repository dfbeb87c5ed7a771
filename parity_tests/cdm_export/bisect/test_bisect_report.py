"""What people see of a bisect: picture, table and sentence."""

import math
import subprocess
import sys

import cv2
import numpy as np

from cdm_export.bisect import write_report
from cdm_export.bisect.measures import Measure
from cdm_export.bisect.plot import OUTSIDE, SECTION_COLORS, growth_picture
from cdm_export.bisect.report import make_report
from cdm_export.bisect.search import scan
from cdm_export.bisect.stages import Stage


def drawn(values, first=None, tolerance=1e-3):
    """A report of two sections, one value per stage."""
    stages = [
        Stage(f"net.s{i}", "encoder" if i < len(values) // 2 else "decoder", (f"net.s{i - 1}",) if i else ())
        for i in range(len(values))
    ]

    def measured(value):
        finite = math.isfinite(value)
        return Measure(
            relative=value if finite else None,
            largest_difference=value if finite else None,
            largest_reference=1,
            not_finite=0 if finite else 7,
            inside=value <= tolerance,
        )

    results = {stage.name: measured(value) for stage, value in zip(stages, values, strict=True)}
    found = scan(stages, lambda names: {name: results[name] for name in names})
    assert found.first == first
    return make_report(
        candidate="a fp16", reference="b fp32", frame="f", tolerance=tolerance, stages=stages,
        found=found, left_out={},
    )  # fmt: skip


def colored(picture, color):
    return (picture == color).all(axis=2)


def test_the_picture_shows_growth_tolerance_and_the_first_outside(tmp_path):
    report = drawn([1e-6, 1e-5, 1e-4, 1e-2, 1e-1, 1e-1], first="net.s3")
    picture = cv2.cvtColor(cv2.imread(str(write_report(report, tmp_path)[1])), cv2.COLOR_BGR2RGB)
    assert (picture == growth_picture(report)).all()
    encoder, decoder = (colored(picture, color) for color in SECTION_COLORS[:2])
    points = encoder | decoder
    # The curve rises: the error's tenfold steps put each section's marks to the right of and above the ones before.
    columns, heights = [], []
    for mask in (encoder, decoder):
        rows, across = np.nonzero(mask[150:560])
        columns.append(across.mean())
        heights.append(rows.mean())
    assert columns[0] < columns[1] and heights[0] > heights[1]
    assert points.sum() > 500
    # The dashed line of the tolerance crosses the plot on a row of its own.
    red = colored(picture, OUTSIDE)
    dashes = red[:, 200:].sum(axis=1)
    row = int(dashes.argmax())
    assert dashes[row] > 300
    # The first stage outside has a line from its mark to the axis; with nothing outside there is none.
    assert red[row:].sum(axis=0).max() > 150
    good = growth_picture(drawn([1e-6, 1e-5, 1e-5, 1e-5, 1e-5, 1e-5]))
    assert colored(good, OUTSIDE)[150:560].sum(axis=0).max() < 20


def test_nan_and_zero_can_be_drawn():
    growth_picture(drawn([0.0, 0.0, math.nan, math.nan], first="net.s2"))
    growth_picture(drawn([0.0]))


def test_the_table_and_the_sentence(capsys):
    from rich.console import Console

    report = drawn([1e-6, math.nan, math.nan, math.nan], first="net.s1")
    Console(width=160).print(report.table())
    text = capsys.readouterr().out
    assert "<- first" in next(line for line in text.splitlines() if "net.s1" in line)
    assert "encoder" in text and "decoder" in text
    assert "'net.s1' (encoder) is the first to leave the tolerance of 0.001: 7 NaN or Inf" in report.summary
    assert not report.passed
    Console(width=80).print(drawn([1.2e-6, 3.4e-5]).table())
    assert {"1.2e-06", "3.4e-05"} <= set(capsys.readouterr().out.split()), "a number was cut in a narrow window"


def test_importing_it_loads_nothing_heavy():
    code = "import sys, cdm_export.bisect; print(*[n for n in ('torch', 'onnx', 'onnxruntime') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
