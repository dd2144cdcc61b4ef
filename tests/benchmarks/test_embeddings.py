"""Embeddings that are updated by row, beside whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import BertConfig

from benchmarks import contenders, embeddings, workload
from kdlora.training import row_updates
from kdlora.training.row_updates import RowAdamW

TINY = BertConfig(
    vocab_size=9000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=64,
)  # fmt: skip


@pytest.mark.parametrize("by_row", [True, False])
def test_both_do_the_same_texts_and_only_one_by_row(monkeypatch, by_row):
    monkeypatch.setitem(workload.SHAPES, "minilm-l3", TINY)
    monkeypatch.setattr(row_updates, "FEWEST_ROWS", row_updates.FEWEST_ROWS)
    taken, step = [], RowAdamW._row_step
    monkeypatch.setattr(
        RowAdamW, "_row_step", lambda self, *args: (taken.append(1), step(self, *args))
    )
    turn = contenders.embeddings_training(by_row, "minilm-l3", "cola", 64)()
    assert turn.texts == 64
    assert turn.seconds > 0
    assert bool(taken) == by_row


def test_usual_words_are_a_few_frequent_ones_and_many_rare_ones():
    work = workload.make_workload("cola", 400)
    usual = workload.with_usual_words(work, 30_000)
    assert torch.equal(usual.labels, work.labels)
    assert np.array_equal(usual.texts.lengths, work.texts.lengths)
    assert usual.texts.ids.min() >= 1000
    assert usual.texts.ids.max() < 30_000
    _, counts = np.unique(usual.texts.ids, return_counts=True)
    assert counts.max() > 0.05 * counts.sum()
    assert np.median(counts) == 1


def test_the_table_says_how_much_faster_round_by_round():
    page = embeddings.as_markdown(
        {
            "measured_at": "2026-01-01", "rows": 64, "repeats": 2,
            "machine": {"threads": 2, "instructions": [], "torch": "2", "transformers": "5"},
            "seconds": {"minilm-l3": {"whole": [3.0, 2.0, 4.0], "by row": [1.5, 2.0, 1.0]}},
        }
    )  # fmt: skip
    assert "| minilm-l3 | 30,522 x 384 | 3.0 | 1.5 | 2.00 (1.00 to 4.00) |" in page
    assert "`python -m benchmarks embeddings --shapes minilm-l3`" in page
