"""What a section is made of: parts, each made on its own, so that one that fails costs no other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pandas as pd

from kdlora.choice.recommend import recommend_profiles
from kdlora.choice.recommendation import Choices
from kdlora.errors import InputError
from kdlora.evidence.gains import Facts, describe
from kdlora.evidence.matrix import Matrix, crossed, study_matrices
from kdlora.evidence.mistakes import TaskMistakes
from kdlora.evidence.predictions import ConfidenceBins
from kdlora.evidence.study import Evidence, gather_report
from kdlora.records.data_look import DataLook
from kdlora.records.predictions import SplitOutputs
from kdlora.records.tidy import StudyFrame, names, tidy
from kdlora.report import words as w
from kdlora.report.document import Block, Finding, Missing, Section, Tile, contents_of
from kdlora.report.stored_outputs import StoredOutputs

T = TypeVar("T")
ERROR_LOG = "report-errors.log"  # beside the page, where a part failed
Histories = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class ReportInputs:
    """What a report shows beside the frame. Functions are called when a part first needs them.

    Attributes:
        spec: the study, shown as YAML.
        notes: further sentences for the methods.
        rerun: the command that does the study again.
        part: what is shown where it is not the whole study, as a sentence.
        histories: run id -> rows of its history, for the learning curves.
        looks: what was found in the data of the tasks before anything was trained.
        bins: run id -> its report rows by confidence, for the reliability diagrams.
        examples: stored outputs and measured exports, for the recommendation.
        texts: stored outputs on the report split by run id, for the comparisons.
        mistakes: where the student of each task is wrong.
        on_section: told the title of each section before it is made.
    """

    title: str
    spec: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    rerun: str = "kdlora run study.yaml"
    part: str = ""
    histories: Callable[[], Histories] = dict
    looks: Callable[[], list[DataLook]] = list
    bins: Callable[[], dict[str, ConfidenceBins]] = dict
    examples: Callable[[], StoredOutputs] | None = None
    texts: Mapping[str, SplitOutputs] = field(default_factory=dict)
    mistakes: Callable[[], list[TaskMistakes]] = list
    on_section: Callable[[str], None] = lambda title: None


class ReportData:
    """Everything that sections show. It is read or computed when the first part asks for it, so
    that a file that cannot be read costs only the parts that need it.
    """

    def __init__(self, frame: pd.DataFrame, inputs: ReportInputs) -> None:
        self.study = StudyFrame.of(frame, inputs.texts)
        self.frame = tidy(self.study)
        self.spec, self.notes, self.rerun = inputs.spec, inputs.notes, inputs.rerun
        self._inputs = inputs
        self._made: dict[str, tuple[Any, Exception | None]] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gives, made when it is first asked for. A failure is kept, too, and raised
        again.
        """
        if name not in self._made:
            try:
                self._made[name] = (make(), None)
            except Exception as error:
                self._made[name] = (None, error)
        made, failure = self._made[name]
        if failure is not None:
            raise failure
        return made

    @property
    def facts(self) -> Facts:
        """What is described; with the marks of columns where the tests behind them were made."""
        try:
            found = self.evidence.facts
        except Exception:  # the parts that show tests say why there are none
            found = None
        return found or self.once("facts", lambda: describe(self.study))

    @property
    def evidence(self) -> Evidence:
        return self.once("evidence", lambda: gather_report(self.study))

    @property
    def stats(self) -> Evidence | None:
        """None where no run has a score."""
        return self.evidence if self.evidence.arms else None

    @property
    def histories(self) -> Histories:
        return self.once("histories", self._inputs.histories)

    @property
    def looks(self) -> list[DataLook]:
        """One for each task whose data was looked at."""
        return self.once("looks", self._inputs.looks)

    @property
    def bins(self) -> dict[str, ConfidenceBins]:
        return self.once("bins", self._inputs.bins)

    @property
    def mistakes(self) -> list[TaskMistakes]:
        """Where the first student of each task is wrong."""
        return self.once("mistakes", self._inputs.mistakes)

    @property
    def keeps_models(self) -> bool:
        """Whether the runs left models; of imported results there are only the numbers."""
        return self._inputs.examples is not None

    @property
    def examples(self) -> StoredOutputs | None:
        """None for results whose models are not here, so that none of them can be shipped."""
        read = self._inputs.examples
        return self.once("examples", read) if read else None

    @property
    def matrices(self) -> tuple[Matrix, ...]:
        """Teachers and students told apart, where several of each were crossed."""
        return self.once(
            "matrices", lambda: study_matrices(self.study) if crossed(self.frame) else ()
        )

    @property
    def choices(self) -> Choices:
        """What each deployment profile would ship."""
        known = self.examples
        if known is None:
            return Choices((), {})
        return self.once(
            "choices", lambda: recommend_profiles(self.frame, known.selection, known.exports)
        )

    @property
    def several(self) -> bool:
        """Whether there are several pairs, so that the first answer is about all of them."""
        return len(names(self.frame, "pair")) > 1 and self.stats is not None


Piece = str | Tile | Finding | Block


@dataclass(frozen=True)
class Part:
    """A part of a section: what it is called where it is missing, and how it is made.

    A text is a paragraph at the head of the section. `files` are the names that its figures and
    tables can have on disk.
    """

    title: str
    make: Callable[[ReportData], Piece | Iterable[Piece] | None]
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class SectionPlan:
    """A section and its parts in reading order.

    `otherwise` is said where no part has anything to show; a section without it is then left out,
    because its question is not asked of such a study. A section is folded, unless it has nothing
    to show or is the page's first.
    """

    key: str
    title: str
    parts: tuple[Part, ...]
    otherwise: str = ""
    folded: bool = True

    def make(self, data: ReportData) -> Section | None:
        made = [(part, self._made(i, part, data)) for i, part in enumerate(self.parts)]
        pieces = [piece for _, found in made for piece in found]
        if not pieces and not self.otherwise:
            return None

        def those(*kinds: type) -> tuple[Any, ...]:
            return tuple(piece for piece in pieces if isinstance(piece, kinds))

        blocks = tuple(p for p in pieces if not isinstance(p, str | Tile | Finding))
        listed = [block.title for block in blocks] or [part.title for part, found in made if found]
        return Section(
            self.key,
            self.title,
            intro=those(str) or (() if pieces else (self.otherwise,)),
            tiles=those(Tile),
            findings=those(Finding),
            blocks=blocks,
            contents=contents_of(listed),
            folded=self.folded and bool(pieces),
        )

    def _made(self, i: int, part: Part, data: ReportData) -> tuple[Piece, ...]:
        found = guarded(lambda: part.make(data), f"{self.key}-{i}", part.title)
        if found is None:
            return ()
        return (found,) if isinstance(found, str | Tile | Finding | Block) else tuple(found)


def guarded(make: Callable[[], T], key: str, title: str) -> T | Missing:
    """What `make` gives, or why it is not there: what is lacking, or how making it failed."""
    try:
        return make()
    except InputError as lacking:
        return Missing(f"missing-{key}", title, f"{w.sentence_case(str(lacking)).rstrip('.')}.")
    except Exception as error:
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        text = (
            f"This part could not be made ({what}). All else on this page stands; the traceback "
            f"is in {ERROR_LOG}, beside the page."
        )
        return Missing(f"missing-{key}", title, text, traceback.format_exc())
