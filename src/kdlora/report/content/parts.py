"""What a section is made of: parts, each made on its own, so that one that fails costs no other."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import pandas as pd

from kdlora.errors import InputError
from kdlora.evidence.confidence import ConfidenceBins
from kdlora.evidence.gains import Facts, describe
from kdlora.evidence.matrix import Matrix, crossed
from kdlora.evidence.study import Evidence, gather_report
from kdlora.records.tidy import StudyFrame, names, tidy
from kdlora.report import words as w
from kdlora.report.content import matrix, which_to_ship
from kdlora.report.document import Block, Finding, Missing, Section, Tile
from kdlora.report.stored_outputs import StoredOutputs

T = TypeVar("T")
ERROR_LOG = "report-errors.log"  # beside the page, where a part failed
Histories = dict[str, list[dict[str, Any]]]


class computed(Generic[T]):  # noqa: N801 - a decorator, like property
    """A property that is computed when it is first read; a failure is kept and raised again."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = f"_{name}"

    @overload
    def __get__(self, instance: None, owner: type) -> computed[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> computed[T] | T:
        if instance is None:
            return self
        if self.name not in vars(instance):
            try:
                vars(instance)[self.name] = (self.compute(instance), None)
            except Exception as error:
                vars(instance)[self.name] = (None, error)
        value, error = vars(instance)[self.name]
        if error is not None:
            raise error
        return value


class ReportData:
    """Everything that sections show. It is read or computed when the first part asks for it, so
    that a file that cannot be read costs only the parts that need it.
    """

    def __init__(
        self,
        frame: pd.DataFrame,
        *,
        spec: dict[str, Any],
        notes: Sequence[str],
        rerun: str,
        histories: Callable[[], Histories],
        bins: Callable[[], dict[str, ConfidenceBins]],
        examples: Callable[[], StoredOutputs] | None,
    ) -> None:
        self.study = StudyFrame.of(frame)
        self.frame, self.spec, self.notes, self.rerun = tidy(self.study), spec, notes, rerun
        self._read_histories, self._read_bins, self._read_examples = histories, bins, examples

    @computed
    def facts(self) -> Facts:
        """What is described; with the marks of columns where the tests behind them were made."""
        try:
            return self.evidence.facts or describe(self.study)
        except Exception:  # the parts that show tests say why there are none
            return describe(self.study)

    @computed
    def evidence(self) -> Evidence:
        return gather_report(self.study)

    @computed
    def stats(self) -> Evidence | None:
        """None where no run has a score."""
        return self.evidence if self.evidence.arms else None

    @computed
    def histories(self) -> Histories:
        return self._read_histories()

    @computed
    def bins(self) -> dict[str, ConfidenceBins]:
        return self._read_bins()

    @computed
    def examples(self) -> StoredOutputs | None:
        """None for results whose models are not here, so that none of them can be shipped."""
        return self._read_examples() if self._read_examples else None

    @computed
    def matrices(self) -> tuple[Matrix, ...]:
        """Teachers and students told apart, where several of each were crossed."""
        if not crossed(self.frame):
            return ()
        return matrix.gather(self.frame, self.examples.report if self.examples else {})

    @computed
    def choices(self) -> which_to_ship.Choices:
        """What each deployment profile would ship."""
        if self.examples is None:
            return which_to_ship.Choices((), ())
        return which_to_ship.gather(self.frame, self.examples.selection, self.examples.exports)

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
    because its question is not asked of such a study.
    """

    key: str
    title: str
    parts: tuple[Part, ...]
    otherwise: str = ""

    def make(self, data: ReportData) -> Section | None:
        pieces = [piece for i, part in enumerate(self.parts) for piece in self._made(i, part, data)]
        if not pieces and not self.otherwise:
            return None

        def those(*kinds: type) -> tuple[Any, ...]:
            return tuple(piece for piece in pieces if isinstance(piece, kinds))

        return Section(
            self.key,
            self.title,
            intro=those(str) or (() if pieces else (self.otherwise,)),
            tiles=those(Tile),
            findings=those(Finding),
            blocks=tuple(p for p in pieces if not isinstance(p, str | Tile | Finding)),
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
