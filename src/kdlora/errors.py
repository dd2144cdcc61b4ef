"""One error family: what was given, what was expected, what to do; all problems at once.

The command line turns a `KdloraError` into one message without a traceback and exit code 2.
Anything else that escapes is a bug in kdlora and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class KdloraError(Exception):
    """Base of every error that a user can cause or mend."""

    exit_code = 2


class InputError(KdloraError):
    """One or many problems with what the user gave.

    `problems` keeps them apart; `str(error)` is a single message that lists them all.
    """

    def __init__(self, problems: str | Iterable[str], *, where: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        self.where = where
        super().__init__(self._message())

    def _message(self) -> str:
        prefix = f"{self.where}: " if self.where else ""
        if len(self.problems) == 1:
            return prefix + self.problems[0]
        lines = "\n".join(f"  - {problem}" for problem in self.problems)
        return f"{prefix}{len(self.problems)} problems:\n{lines}"


class DataError(InputError):
    """The data cannot be used as given."""


class ModelError(InputError):
    """An encoder, adapter or saved model cannot be used as given."""


class Problems:
    """Collects what is wrong, so that all of it is told in one message.

    A check that only looks yields sentences: `problems.add(*sentences)`. A step that raises runs
    inside `with problems.caught():`, which keeps its error; the program goes on after the block.
    """

    def __init__(self, where: str | None = None) -> None:
        self.where = where
        self._sentences: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._sentences)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)

    def add(self, *sentences: str) -> None:
        """Keep these sentences; one that is known already is not told twice."""
        self._sentences.update(dict.fromkeys(sentences))

    @contextmanager
    def caught(self) -> Iterator[None]:
        """A block whose error, if it is a user's, becomes problems."""
        try:
            yield
        except InputError as error:
            place = f"{error.where}: " if error.where else ""
            self.add(*(place + problem for problem in error.problems))
        except KdloraError as error:
            self.add(str(error))

    def raise_any(self, kind: type[InputError] = InputError) -> None:
        """Raise an error with all of them; nothing where there are none."""
        if self:
            raise kind(self, where=self.where)


class FetchError(KdloraError):
    """Something had to be downloaded and could not be."""


class StoreError(KdloraError):
    """The results folder cannot be read or written as needed."""


class StudyFailed(KdloraError):
    """No run of a study that trains or scores an encoder could be done.

    `result` is what the study left all the same: a `kdlora.ship.study_result.StudyResult`.
    """

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result


class ReportError(KdloraError):
    """Parts of a report could not be made; the report says where, and the rest of it stands."""

    exit_code = 1


class Interrupted(KdloraError):
    """The user stopped the work; what is done is kept and the rest can be resumed."""

    exit_code = 130


def without_traceback(error: str) -> str:
    """What a recorded error says in the end: all of a message, the last line of a traceback."""
    return error.strip().splitlines()[-1] if error.startswith("Traceback") else error


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, plus the list of known names.

    Nothing where no name is known.
    """
    names = sorted(set(known))
    if not names:
        return ""
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"{hint} Known: {', '.join(names)}."


_MOST_SLIPS = 2  # letters that are wrong, missing or too many


def typo_of(given: str, known: Iterable[str]) -> str | None:
    """The known name of which the given one is a slip of the keyboard; None where there is none.

    A letter in three may differ, at most two, and case; figures may not, since they tell models and
    versions apart. A given name that is known is none.
    """
    names = set(known)
    if given in names:
        return None
    slips = {name: _slips(given, name) for name in sorted(names)}
    near = min(slips, key=lambda name: slips[name], default=None)
    most = min(_MOST_SLIPS, len(given) // 3)
    return near if near is not None and slips[near] <= most else None


def _slips(a: str, b: str) -> int:
    """How many letters of two names differ; more than may if their figures do."""
    a, b = a.casefold(), b.casefold()
    if [c for c in a if c.isdigit()] != [c for c in b if c.isdigit()]:
        return _MOST_SLIPS + 1
    parts = difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes()
    return sum(max(i2 - i1, j2 - j1) for kind, i1, i2, j1, j2 in parts if kind != "equal")


def alternatives(names: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
