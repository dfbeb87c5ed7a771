"""What a search found, for machines (JSON) and for people (table, one sentence)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from cdm_export.bisect.coreml_worker import OperationFound
from cdm_export.bisect.measures import Measure
from cdm_export.bisect.search import Found, Strategy, Verdict
from cdm_export.bisect.stages import Stage
from cdm_export.runtimes.contract import Record

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


class StageReport(Record):
    """One stage of the network."""

    name: str
    """Module, or the network's output."""
    section: str
    """Part of the network."""
    after: tuple[str, ...]
    """Stages it reads."""
    measure: Measure | None
    """None when the search did not look at it."""


class BisectReport(Record):
    """Growth of the error along the network, and where it leaves the tolerance."""

    candidate: str
    """Backend and precision, e.g. ``openvino bf16``."""
    reference: str
    """Likewise."""
    frame: str
    """Name of the frame."""
    strategy: Strategy
    """``scan``: all stages were looked at in one run. ``bisect``: one at a time."""
    tolerance: float
    """On the relative L2 error of a stage: the gate's 99th percentile for the candidate's precision."""
    verdict: Verdict
    """``inside``, ``outside``, or ``hidden``: see ``Found``. Only ``inside`` is a pass."""
    first: str | None
    """The stage at which the error leaves the tolerance."""
    origins: tuple[str, ...]
    """Every stage that is outside while all it reads is inside, as far as the search looked."""
    output: Measure
    """The network's output with no stage shown beside it."""
    stages: tuple[StageReport, ...]
    """In network order; the last is the network's output."""
    left_out: dict[str, str]
    """Stages that cannot be compared, and why."""
    runs: int = Field(validation_alias="looks", serialization_alias="looks")
    """Runs of the candidate."""
    operation: OperationFound | None = None
    """Where ``first`` could be looked into: the first operation in it whose value is outside."""

    @property
    def passed(self) -> bool:
        """Whether nothing is outside."""
        return self.verdict == "inside"

    @property
    def summary(self) -> str:
        """One sentence."""
        pair = f"{self.candidate} against {self.reference} on '{self.frame}'"
        if self.verdict == "hidden":
            size = describe_measure(self.output)
            return (
                f"{pair}: the output leaves the tolerance of {self.tolerance:g} ({size}), but not "
                "when stages are shown beside it: exposing them changes what the backend computes"
            )
        if self.first is None:
            seen = "at every stage" if self.strategy == "scan" else "at the output, so nothing was searched"
            return f"{pair}: within the tolerance of {self.tolerance:g} {seen}"
        found = next(stage for stage in self.stages if stage.name == self.first)
        assert found.measure is not None
        also = [name for name in self.origins if name != self.first]
        return (
            f"{pair}: '{self.first}' ({found.section}) is the first to leave the tolerance of {self.tolerance:g}: "
            f"{describe_measure(found.measure)}"
            + (f"; in it, '{self.operation.name}' ({self.operation.kind}) is the first" if self.operation else "")
            + (f"; independently of it: {', '.join(also)}" if also else "")
            + ("; the output is within it all the same" if self.output.inside else "")
        )

    def table(self) -> "Table":
        """Growth of the error, stage by stage."""
        from rich.box import SIMPLE
        from rich.table import Table
        from rich.text import Text

        title = f"{self.candidate} against {self.reference}, frame '{self.frame}'"
        table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("stage", no_wrap=True)
        # A narrow window folds headings, never numbers: one without its exponent says nothing.
        for heading, width in (("relative error", 8), ("largest error", 7), ("largest value", 7), ("NaN, Inf", 4)):
            table.add_column(heading, justify="right", min_width=width, max_width=width)
        table.add_column("", min_width=7)
        section = ""
        for stage in self.stages:
            if stage.section != section:
                section = stage.section
                table.add_section()
                table.add_row(section, style="bold")
            table.add_row(stage.name, *_row(stage.measure), self._mark(stage))
        mark = Text("" if self.output.inside else "outside", "red")
        table.add_row(f"{self.stages[-1].name}, shown alone", *_row(self.output), mark)
        return table

    def _mark(self, stage: StageReport) -> "Text":
        from rich.text import Text

        if stage.name == self.first:
            return Text("<- first", "bold red")
        if stage.name in self.origins:
            return Text("<- origin", "red")
        if stage.measure is None:
            return Text("not run", "dim")
        return Text("" if stage.measure.inside else "outside", "red")


def describe_measure(measure: Measure) -> str:
    """A measure in words."""
    if measure.not_finite:
        return f"{measure.not_finite} NaN or Inf"
    return "not zero where the reference is" if measure.relative is None else f"relative error {measure.relative:.2g}"


def make_report(
    *,
    candidate: str,
    reference: str,
    frame: str,
    tolerance: float,
    stages: Sequence[Stage],
    found: Found,
    left_out: Mapping[str, str],
    operation: OperationFound | None = None,
) -> BisectReport:
    """Put together what a search found over ``stages``."""
    return BisectReport(
        candidate=candidate,
        reference=reference,
        frame=frame,
        strategy=found.strategy,
        tolerance=tolerance,
        verdict=found.verdict,
        first=found.first,
        origins=found.origins,
        output=found.alone,
        stages=tuple(
            StageReport(
                name=stage.name, section=stage.section, after=stage.after, measure=found.measured.get(stage.name)
            )
            for stage in stages
        ),
        left_out=dict(left_out),
        runs=found.runs,
        operation=operation,
    )


def _row(measure: Measure | None) -> tuple[str, str, str, str]:
    if measure is None:
        return ("", "", "", "")
    return (
        "-" if measure.relative is None else f"{measure.relative:.1e}",
        "-" if measure.largest_difference is None else f"{measure.largest_difference:.1e}",
        f"{measure.largest_reference:.3g}",
        str(measure.not_finite or ""),
    )
