"""All checks of one task's rows, from the splits as a run uses them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kdlora.data.checks.duplicates import near_groups, numbered, plain_forms, rows_by_group
from kdlora.data.checks.labels import (
    alike_class_findings,
    class_findings,
    conflict_findings,
    missing_class_findings,
    quote,
    several_label_findings,
    size_findings,
)
from kdlora.data.checks.tokens import EncoderTokenizer, count_tokens, token_findings
from kdlora.data.examples import Examples, TaskData
from kdlora.data.own_task import HELD_OUT
from kdlora.records.data_look import DataFinding, DataLook, SplitCount, by_severity, percent
from kdlora.spec.run import TaskRef

LEAKED = 0.01  # share of a report split from which repeated texts flatter its score
NEARLY_LEAKED = 0.05  # the same of texts that are nearly repeated
REPEATED = 0.1  # share of rows; phrases of sentences, as in SST-2, reach 8 %
_EMPTY = 0.01  # share of a text column's rows
_GARBLED = 0.01  # share of a column's texts
_ID = re.compile(r"[\w-]{1,64}")
_ALMOST = 0.95  # share of texts that tells what a column holds
_DISTINCT, _WITH_DIGITS = 0.9, 0.5
_SHOWN = 3
_UNLABELLED = "unlabelled"  # the split of texts that only a teacher labels


@dataclass(frozen=True, eq=False)
class _Pool:
    """All rows of a task one after the other, the splits in their order."""

    texts: tuple[list[str], ...]
    labels: np.ndarray
    split: np.ndarray  # [n] place of the row's split among `splits`
    splits: tuple[str, ...]
    where: list[str]  # [n] as a user finds the row

    def of(self, name: str) -> np.ndarray:
        """Whether each row is of a split, [n]."""
        return self.split == (self.splits.index(name) if name in self.splits else -1)


def look_at(
    data: TaskData,
    ref: TaskRef,
    tokenizers: Sequence[EncoderTokenizer] = (),
    *,
    unread: Sequence[str] = (),
    unlabelled: Examples | None = None,
) -> DataLook:
    """Everything that is worth knowing of a task's rows before a model is trained on them.

    Args:
        tokenizers: those of the encoders that will read the texts.
        unread: encoders whose tokenizer is not at hand.
        unlabelled: further texts, which only a teacher labels.
    """
    task, parts = data.task, data.splits()
    sources = {name: split_source(ref, data, name) for name in parts}
    counts = [
        SplitCount(name, sources[name], len(part), task.kind.counts(part.labels, task.label_names))
        for name, part in parts.items()
    ]
    if unlabelled is not None:
        parts = {**parts, _UNLABELLED: unlabelled}
        sources[_UNLABELLED] = "the unlabelled texts"
        counts.append(SplitCount(_UNLABELLED, "unlabelled files", len(unlabelled)))
    texts = tuple([t for p in parts.values() for t in p.texts[i]] for i in range(len(task.texts)))
    pool = _Pool(
        texts,
        np.concatenate([part.labels for part in parts.values()]),
        np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()]),
        tuple(parts),
        [place for name, part in parts.items() for place in _places(part, sources[name])],
    )
    findings = [
        *([] if task.kind.several else several_label_findings(task.label_names, task.label)),
        *alike_class_findings(task.label_names, task.label),
        *class_findings(counts[: len(data.splits())]),
        *missing_class_findings(counts[: len(data.splits())]),
        *size_findings(counts[: len(data.splits())], task.kind),
        *_empty_findings(data.dropped, sum(len(part) for part in data.splits().values())),
        *_column_findings(task.texts, texts),
        *_repetition_findings(data, pool),
    ]
    told = {found.sentence for found in findings}
    findings += [DataFinding("note", "info", note) for note in data.notes if note not in told]
    tokens = [count_tokens(one, texts) for one in tokenizers]
    findings += [found for count in tokens for found in token_findings(count)]
    if unread:
        findings.append(
            DataFinding(
                "unread_tokenizer",
                "info",
                f"the tokenizer of {', '.join(unread)} is not at hand: lengths in tokens are "
                "looked at once it is fetched",
            )
        )
    return DataLook(
        task.name,
        task.kind.name,
        task.texts,
        data.fingerprint,
        tuple(counts),
        tuple(tokens),
        by_severity(findings),
    )


def split_source(ref: TaskRef, data: TaskData, split: str) -> str:
    """Where the rows of a split are read from, as a user knows it."""
    carved = split in ("train", "selection") or data.task.reports[split] == HELD_OUT
    if ref.own is not None:
        name = ref.own.train if carved or ref.own.eval is None else ref.own.eval
        return f"{Path(ref.own.hub).name}, {name}" if ref.own.hub else Path(name).name
    stem = "train" if carved else data.task.reports[split]
    return f"{ref.name}/{stem}.tsv" if ref.source == "folder" else f"{ref.name}, {stem}"


def _places(part: Examples, source: str) -> list[str]:
    if part.numbers is None:
        return [f"a row of {source}"] * len(part)
    return [f"row {number:,} of {source}" for number in part.numbers.tolist()]


def _empty_findings(dropped: int, rows: int) -> Iterator[DataFinding]:
    """Rows without any text, beside those that are used."""
    share = dropped / (dropped + rows) if dropped else 0.0
    if share >= _EMPTY:
        yield DataFinding(
            "empty_texts",
            "warning",
            f"{dropped:,} of {dropped + rows:,} rows ({percent(share)}) hold no text and are left "
            "out",
            "Name the column of the text (--text, or `text` in the study file), or fill it",
        )


def _column_findings(names: Sequence[str], texts: Sequence[Sequence[str]]) -> Iterator[DataFinding]:
    """Text columns that look like ids, that are garbled, or that are empty in many rows."""
    for name, column in zip(names, texts, strict=True):
        filled = [text for text in column if text.strip()]
        empty = len(column) - len(filled)
        if empty >= _EMPTY * len(column) and empty:
            yield DataFinding(
                "empty_texts",
                "warning",
                f"column '{name}' is empty in {empty:,} of {len(column):,} rows "
                f"({percent(empty / len(column))})",
                "Fill it, or leave the column out",
            )
        if garbled := [text for text in filled if is_garbled(text)]:
            share = len(garbled) / len(filled)
            yield DataFinding(
                "garbled_texts",
                "warning" if share >= _GARBLED else "info",
                f"{len(garbled):,} of {len(filled):,} texts of column '{name}' ({percent(share)}) "
                f"were decoded wrongly before they were saved: {quote(garbled[0])}",
                "Export the file again as UTF-8 from where it comes" if share >= _GARBLED else "",
            )
        ids = sum(_ID.fullmatch(text) is not None for text in filled)
        distinct = len(set(filled))
        if (
            filled
            and ids >= _ALMOST * len(filled)
            and distinct >= _DISTINCT * len(filled)
            and sum(any(c.isdigit() for c in text) for text in filled) >= _WITH_DIGITS * len(filled)
        ):
            shown = ", ".join(quote(text, 24) for text in filled[:_SHOWN])
            yield DataFinding(
                "text_looks_like_ids",
                "warning",
                f"column '{name}' looks like ids and not like text: {shown}",
                "Name the column of the text (--text, or `text` in the study file)",
            )


# UTF-8 that was read as Windows-1252 or Latin-1: what accents, dashes, quotes and emoji become.
_MISREAD = re.compile(
    "[\u00c2\u00c3\u00e2\u00f0][\u0080-\u00bf\u0152-\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]+"
)


def is_garbled(text: str) -> bool:
    """Whether a text holds UTF-8 that was read as another encoding, or signs that were lost so."""
    if text.isascii():
        return False
    return "\ufffd" in text or any(map(_was_utf8, _MISREAD.findall(text)))


def _was_utf8(signs: str) -> bool:
    """Whether signs are letters of UTF-8, read as Windows-1252 or, where that has none, Latin-1."""
    found = bytearray()
    for sign in signs:
        try:
            found += sign.encode("cp1252")
        except UnicodeEncodeError:
            if ord(sign) > 0xFF:
                return False
            found.append(ord(sign))
    try:
        found.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _repetition_findings(data: TaskData, pool: _Pool) -> Iterator[DataFinding]:
    """Texts that stand several times: within train, in train and a report split, and with which
    labels.
    """
    forms = plain_forms(pool.texts)
    exact = numbered(["\n".join(row) for row in zip(*pool.texts, strict=True)])
    plain, near = numbered(forms), near_groups(forms)
    shown = [" / ".join(row) for row in zip(*pool.texts, strict=True)]
    gold = int((~pool.of(_UNLABELLED)).sum())  # they stand first
    yield from conflict_findings(
        data.task, plain[:gold], pool.labels[:gold], pool.where[:gold], shown[:gold]
    )
    learnt = pool.of("train") | pool.of("selection")
    groups = (exact, plain, near)
    yield from _repeats("repeated_texts", "training rows", learnt, groups)
    yield from _repeats("repeated_unlabelled", "unlabelled texts", pool.of(_UNLABELLED), groups)
    for name in data.reports:
        yield from _leaks("leaked_texts", pool, name, learnt, groups)
        yield from _leaks("leaked_unlabelled", pool, name, pool.of(_UNLABELLED), groups)


_Groups = tuple[np.ndarray, np.ndarray, np.ndarray]  # of rows that are equal, alike, nearly alike

# Where texts of a report split were learnt, and what to do about it.
LEAKS = {
    "leaked_texts": (
        "in train or selection",
        "Their scores may flatter: keep each text on one side",
    ),
    "leaked_unlabelled": (
        "among the unlabelled texts",
        "The student learns the teacher's answers to what it is scored on: leave such texts out",
    ),
}


def _repeats(finding: str, what: str, chosen: np.ndarray, groups: _Groups) -> Iterator[DataFinding]:
    """Chosen rows that repeat one another."""
    rows = int(chosen.sum())
    same, alike, nearly = (rows - len(np.unique(g[chosen])) for g in groups)
    if not nearly:
        return
    more = f"; {nearly - alike:,} more nearly do" if nearly > alike else ""
    yield DataFinding(
        finding,
        "warning" if alike >= REPEATED * rows else "info",
        f"{alike:,} of {rows:,} {what} ({percent(alike / rows)}) repeat another but for "
        f"case, white space or a final stop ({same:,} word for word){more}",
        "Keep each text once: repeated ones weigh more" if alike >= REPEATED * rows else "",
    )


def _leaks(
    finding: str, pool: _Pool, name: str, learnt: np.ndarray, groups: _Groups
) -> Iterator[DataFinding]:
    """Rows of a report split whose text a model may have learnt by heart."""
    report, near = pool.of(name), groups[2]
    hits = [report & np.isin(each, each[learnt]) for each in groups]
    same, alike, nearly = (int(hit.sum()) for hit in hits)
    rows = int(report.sum())
    if not nearly:
        return
    place, advice = LEAKS[finding]
    partners = rows_by_group(near)
    pairs = []
    for row in np.flatnonzero(hits[2])[:_SHOWN].tolist():
        other = next(i for i in partners[int(near[row])] if learnt[i])
        pairs.append(f"{pool.where[row]} is {pool.where[other]}")
    much = alike >= LEAKED * rows or nearly >= NEARLY_LEAKED * rows
    more = f", and {nearly - alike:,} nearly" if nearly > alike else ""
    yield DataFinding(
        finding,
        "warning" if much else "info",
        f"{alike:,} of {rows:,} rows of the {name} split ({percent(alike / rows)}) stand {place} "
        f"as well, but for case, white space or a final stop ({same:,} word for "
        f"word){more}: {'; '.join(pairs)}",
        advice if much else "",
    )
