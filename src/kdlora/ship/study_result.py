"""What a study left: its folder, runs and report, and the saved student at work in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from kdlora.errors import InputError
from kdlora.ship.card import ModelCard
from kdlora.visible import visible

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from kdlora.report.build import ReportFiles
    from kdlora.ship.answers import Answer


# Keys of a Vega-Lite specification that a chart within others may not have.
_OF_A_PAGE = ("$schema", "config", "autosize", "background", "padding", "datasets")


@dataclass
class StudyResult:
    """What a study left on disk, and its runs as a tidy frame.

    Attributes:
        status: run id -> what became of it, one of `engines.schedule.State`.
        failed: run id -> the error of a run that could not be done, in the plan's order.
        skipped: run id -> why a run was not tried: a teacher that it needs failed.
        students: the saved students with their cards, one a task and pair.
    """

    folder: Path
    status: dict[str, str]
    frame: pd.DataFrame
    report: ReportFiles
    students: list[tuple[Path, ModelCard]] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def student(self) -> Path | None:
        """Folder of the saved student (the first, where there are several tasks or pairs)."""
        return self.students[0][0] if self.students else None

    def table(self) -> pd.DataFrame:
        """Every task and model: mean score over seeds, share of the teacher's, size, speed, time.

        The numbers are those of the report's table of results, where there is more beside them.
        """
        import pandas as pd

        found = self._results()
        rows = [[cell.text if cell.value is None else cell.value for cell in r] for r in found.rows]
        labels = [f"{c.label} ({c.unit})" if c.unit else c.label for c in found.columns]
        return pd.DataFrame(rows, columns=labels)

    @overload
    def predict(self, texts: pd.DataFrame) -> pd.DataFrame: ...
    @overload
    def predict(self, texts: str | Sequence[str] | Sequence[Sequence[str]]) -> list[Answer]: ...
    def predict(
        self, texts: str | Sequence[str] | Sequence[Sequence[str]] | pd.DataFrame
    ) -> list[Answer] | pd.DataFrame:
        """Answers of the saved student, as `kdlora.predict`. Raises InputError without one."""
        from kdlora.ship.predict_rows import loaded_predictor, predict_rows

        if self.student is None:
            raise InputError(f"{self.folder} holds no saved student; its report says why")
        return predict_rows(loaded_predictor(self.student), texts)

    def plot(self) -> alt.VConcatChart:
        """Scores against costs, as in the report: a chart that a notebook shows."""
        import altair as alt

        from kdlora.evidence.gains import describe
        from kdlora.report.content.trade_off import trade_offs

        panels = [panel for figure in trade_offs(describe(self.frame)) for panel in figure.panels]
        if not panels:
            raise InputError("no two models have a score and a cost: there is nothing to draw")
        whole = {name: panels[0].spec[name] for name in _OF_A_PAGE if name in panels[0].spec}
        whole["datasets"] = {k: v for p in panels for k, v in p.spec.get("datasets", {}).items()}
        parts = [{k: v for k, v in p.spec.items() if k not in _OF_A_PAGE} for p in panels]
        return alt.VConcatChart.from_dict({**whole, "vconcat": parts})

    def _results(self) -> Any:
        from kdlora.evidence.gains import describe
        from kdlora.report.content.results import results

        return results(describe(self.frame))

    def _repr_html_(self) -> str:
        """What a notebook shows: the table of results as it is read, the student, the report."""
        found = self._results()
        head = "".join(f"<th>{_escaped(column.label)}</th>" for column in found.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{_escaped(cell.text)}</td>' for cell in row)}</tr>"
            for row in found.rows
        )
        saved = "".join(
            f"<p>Student: <code>{_escaped(str(folder))}</code> ({_escaped(card.arm)}, seed "
            f"{card.seed})</p>"
            for folder, card in self.students
        )
        failed = f"<p>{len(self.failed)} runs failed</p>" if self.failed else ""
        page = _escaped(str(self.report.html))
        return (
            f"<table><caption>{_escaped(found.title)}</caption><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table>{saved}{failed}<p>Report: <code>{page}</code></p>"
        )


def _escaped(text: str) -> str:
    return escape(visible(text))
