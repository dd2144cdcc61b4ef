"""What a model card says beyond the export itself: how sure its score is, and of which data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kdlora.errors import InputError
from kdlora.evidence.mistakes import count_suspects
from kdlora.evidence.score_draws import draw_scores, score_ends
from kdlora.records.data_look import DataLook, percent, read_looks
from kdlora.records.predictions import RunOutputs
from kdlora.ship.card import ModelCard
from kdlora.ship.source import SourceRun, find_teacher
from kdlora.visible import as_markdown

DRAWS = 2_000


@dataclass(frozen=True)
class CardFacts:
    """Facts beside the export: all of them may be unknown, of a study of an earlier version.

    interval: 95 % of the report split's score when its texts are drawn again; it speaks of this
    one model. look: what was found in the data before the training. doubted: how many labels of
    the report split may be wrong by confident learning, of how many, and who judged them.
    """

    interval: tuple[float, float] | None = None
    look: DataLook | None = None
    encoder: str = ""
    doubted: tuple[int, int, str] | None = None

    def scores(self, card: ModelCard) -> Iterator[str]:
        if self.interval is not None:
            low, high = self.interval
            yield (
                f"{card.metric} on other texts of this kind: {low:.4f} to {high:.4f} (95 % of "
                "draws of the report split's texts; what other seeds would give is not in it)"
            )

    def data(self) -> Iterator[str]:
        """Rows, classes and lengths."""
        if self.look is None:
            return
        for split in self.look.splits:
            classes = ", ".join(f"{as_markdown(name)} {n:,}" for name, n in split.classes.items())
            yield f"{split.split}: {split.rows:,} rows{f' ({classes})' if classes else ''}"
        for count in self.look.tokens:
            if self.encoder and self.encoder not in count.encoders:
                continue
            yield (
                f"lengths: median {count.median} tokens, 99 % within {count.percentile_99}, "
                f"longest {count.longest}; {percent(count.cut_texts)} of the texts are longer "
                f"than {count.max_length}"
            )

    def limits(self) -> Iterator[str]:
        """What was doubtful in the data that it learnt from."""
        if self.look is not None:
            yield from (as_markdown(found.told) for found in self.look.of("error", "warning"))
        if self.doubted is not None and self.doubted[0]:
            doubted, labels, judge = self.doubted
            yield (
                f"Of the {labels:,} labels of the report split {doubted:,} may be wrong, by what "
                f"{judge} makes of their texts (confident learning); the scores are held against "
                "all of them."
            )


def card_facts(source: SourceRun) -> CardFacts:
    """What is known of a run beside its record."""
    looks = [look for look in read_looks(source.store.root) if look.task == source.card.task]
    return CardFacts(
        _interval(source), looks[0] if looks else None, source.run.encoder.title, _doubted(source)
    )


def _doubted(source: SourceRun) -> tuple[int, int, str] | None:
    """None for numbers, without stored predictions, and where cleanlab is not installed."""
    if source.card.answers.numeric:
        return None
    teacher = find_teacher(source) if source.run.role != "teacher" else None
    record = teacher.record if teacher is not None else None
    found = RunOutputs(source.store.root, "report").get((record or source.record).run_id)
    if found is None:
        return None
    try:
        doubted = count_suspects(found)
    except InputError:
        return None
    return doubted, int(np.size(found.labels)), "its teacher" if record else "the model itself"


def _interval(source: SourceRun) -> tuple[float, float] | None:
    """None where the predictions are not stored or cannot be read, or no score is defined."""
    record, card = source.record, source.card
    score = record.quality.score if record.quality is not None else None
    outputs = RunOutputs(source.store.root, "report").get(record.run_id)
    if outputs is None or score is None or not np.isfinite(score):
        return None
    positive = card.label_names.index(card.positive) if card.positive else None
    drawn = draw_scores(
        [[record.run_id]], [[record.run.seed]], {record.run_id: score},
        {record.run_id: outputs}, card.metric, rng=np.random.default_rng(0), draws=DRAWS,
        positive=positive,
    )  # fmt: skip
    values = None if drawn.by_examples is None else drawn.by_examples[:, 0]
    low, high = score_ends(values, card.metric)
    return None if low is None or high is None else (low, high)
