from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.data.batches import Encoded, collate, encode, eval_batches, padded_length, train_batches
from tests.harness.tiny_models import tiny_config, tiny_tokenizer

lengths_of_texts = st.lists(st.integers(1, 200), min_size=1, max_size=400).map(np.array)


@given(lengths_of_texts, st.integers(1, 64), st.integers(0, 9))
def test_an_epoch_holds_every_text_once(lengths, size, seed):
    batches = train_batches(lengths, size, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= size for batch in batches)
    assert len(batches) == -(-len(lengths) // size)


@given(lengths_of_texts, st.integers(64, 4096))
def test_evaluation_holds_every_text_once_within_the_token_budget(lengths, tokens):
    batches = list(eval_batches(lengths, tokens=tokens))
    assert sorted(np.concatenate(batches)) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= tokens


def test_bucketing_saves_padding_and_orders_differ_by_seed():
    lengths = np.random.default_rng(0).integers(5, 120, 5000)

    def padded(batches):
        return sum(len(b) * lengths[b].max() for b in batches)

    one = train_batches(lengths, 32, np.random.default_rng(1))
    two = train_batches(lengths, 32, np.random.default_rng(2))
    assert padded(one) < 1.05 * lengths.sum()
    assert not np.array_equal(np.concatenate(one), np.concatenate(two))
    firsts = [lengths[b].mean() for b in one]
    assert abs(np.corrcoef(range(len(firsts)), firsts)[0, 1]) < 0.2  # no curriculum by length


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_tensors_equal_those_of_the_tokenizer(family):
    tokenizer = tiny_tokenizer(tiny_config(family))
    texts = (["good film", "the very best story of the year"], ["a b c", "no"])
    encoded = encode(tokenizer, texts, max_length=64)
    ours = collate(encoded, np.array([1, 0]))
    theirs = tokenizer(
        [texts[0][1], texts[0][0]], [texts[1][1], texts[1][0]], padding=True, return_tensors="pt"
    )
    assert set(ours) == set(theirs)
    for name in ours:
        assert ours[name].tolist() == theirs[name].tolist(), name


def test_long_texts_are_cut_and_empty_ones_survive():
    tokenizer = tiny_tokenizer(tiny_config("bert"))
    encoded = encode(tokenizer, (["good " * 500, ""],), max_length=16)
    assert encoded.lengths.tolist() == [16, 2]
    assert len(encode(tokenizer, ([],), max_length=16)) == 0


def test_padding_may_stand_on_the_left():
    encoded = Encoded(np.array([7, 8, 9], np.int32), np.array([0, 1, 3]), None, 0, pad_left=True)
    batch = collate(encoded, np.array([0, 1]))
    assert batch["input_ids"].tolist() == [[0, 7], [8, 9]]
    assert batch["attention_mask"].tolist() == [[0, 1], [1, 1]]


def test_padded_lengths_are_few_and_close():
    rounded = [padded_length(n) for n in range(1, 513)]
    assert all(n <= r <= 1.125 * n + 1 for n, r in enumerate(rounded, 1))
    assert rounded == sorted(rounded)
    assert len(set(rounded[:128])) == 40


def test_padding_never_exceeds_the_longest_text():
    encoded = Encoded(
        ids=np.arange(17 + 29, dtype=np.int32),
        offsets=np.array([0, 17, 46]),
        types=None,
        pad_id=0,
    )
    assert collate(encoded, np.array([0]))["input_ids"].shape == (1, 18)
    assert collate(encoded, np.array([0, 1]))["input_ids"].shape == (2, 29)
