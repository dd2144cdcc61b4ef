"""What a look at a task's rows found: counts by split, lengths in tokens, and reasons to doubt.

`data.checks` makes it before anything trains, the study's folder keeps it, and the report shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdlora.files import whole_file
from kdlora.json_files import read_json_object

LOOK_FILE = "look.json"  # in a study's folder

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")  # as of health flags, worst first


@dataclass(frozen=True)
class DataFinding:
    """Something in the data that a user should know before anything is trained on it.

    `sentence` says what is there, with its numbers; `advice` what to do, and may be empty.
    """

    name: str
    severity: Severity
    sentence: str
    advice: str = ""

    @property
    def told(self) -> str:
        """The sentence, and what to do."""
        return " ".join(f"{part}." for part in (self.sentence, self.advice) if part)


@dataclass(frozen=True)
class SplitCount:
    """One split: where its rows come from, how many there are, and how many of each class."""

    split: str
    source: str
    rows: int
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenCount:
    """Texts as the tokenizer of some encoders sees them; lengths are tokens of an input.

    A pair of texts is one input. Shares are between 0 and 1. `measured` of all `texts` were
    tokenised, evenly spaced through the rows.
    """

    encoders: tuple[str, ...]
    texts: int
    measured: int
    max_length: int
    median: int
    percentile_99: int
    longest: int
    cut_texts: float
    cut_tokens: float
    unknown_tokens: float
    texts_with_unknown: float
    tokens_per_word: float
    windows: float | None = None  # that a text is read in, in the mean; None: it is cut


@dataclass(frozen=True)
class DataLook:
    """All that a look at one task found; findings stand by severity, the worst first.

    `fingerprint` is that of the rows, as `TaskData` has it.
    """

    task: str
    kind: str
    text_columns: tuple[str, ...]
    fingerprint: str
    splits: tuple[SplitCount, ...]
    tokens: tuple[TokenCount, ...]
    findings: tuple[DataFinding, ...]

    def of(self, *severities: Severity) -> tuple[DataFinding, ...]:
        """The findings of these severities."""
        return tuple(found for found in self.findings if found.severity in severities)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def percent(share: float) -> str:
    """``0.04 %``, ``1.2 %``, ``12 %``."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def by_severity(findings: Iterable[DataFinding]) -> tuple[DataFinding, ...]:
    """The worst first, otherwise in their order."""
    return tuple(sorted(findings, key=lambda found: SEVERITIES.index(found.severity)))


def write_looks(looks: Sequence[DataLook], root: Path) -> None:
    """Keep what was found in a study's folder."""
    with whole_file(root / LOOK_FILE) as temporary:
        temporary.write_text(
            json.dumps({"tasks": [look.as_dict() for look in looks]}, indent=1, ensure_ascii=False),
            encoding="utf-8",
        )


def read_looks(root: Path) -> list[DataLook]:
    """What was found in the data of a study's folder; nothing where no look was kept."""
    try:
        values = read_json_object(root / LOOK_FILE)
        return [_read(task) for task in values["tasks"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _read(values: dict[str, Any]) -> DataLook:
    tokens = ({**one, "encoders": tuple(one["encoders"])} for one in values["tokens"])
    return DataLook(
        **{
            **values,
            "text_columns": tuple(values["text_columns"]),
            "splits": tuple(SplitCount(**one) for one in values["splits"]),
            "tokens": tuple(TokenCount(**one) for one in tokens),
            "findings": tuple(DataFinding(**one) for one in values["findings"]),
        }
    )
