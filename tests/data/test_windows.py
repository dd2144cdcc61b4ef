"""Long texts in windows: no token is lost, what is kept of too many, and their outputs pooled."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.data.batches import collate, encode, encode_once, input_lengths, micro_batches
from kdlora.data.examples import Examples
from kdlora.data.windows import TextWindows, count_windows, longest_read, read_windows
from kdlora.errors import ModelError
from kdlora.ship.onnx_runtime import encode as encode_light
from kdlora.ship.onnx_runtime import open_tokenizer
from kdlora.spec.sections import Windows
from tests.harness.tiny_models import WORDS, tiny_config, tiny_tokenizer

TOKENIZER = tiny_tokenizer(tiny_config("bert"))
KNOWN = [word for word in WORDS if len(word) > 1]
TEXTS = [" ".join(KNOWN[i : i + n]) for i, n in enumerate((3, 90, 1, 14, 40))]
FEW = Windows(stride=4, max_windows=99)


def content(encoded, row):
    return encoded.ids[encoded.offsets[row] + 1 : encoded.offsets[row + 1] - 1].tolist()


def test_every_token_stands_in_a_window_and_neighbours_share_the_stride():
    encoded = encode(TOKENIZER, (TEXTS,), max_length=16, windows=FEW)
    whole = encode(TOKENIZER, (TEXTS,), max_length=200)
    assert len(encoded) == len(TEXTS)
    for i in range(len(TEXTS)):
        rows = encoded.rows(np.array([i]))
        read = content(encoded, rows[0])
        for row in rows[1:]:
            assert read[-4:] == content(encoded, row)[:4]
            read += content(encoded, row)[4:]
        assert read == content(whole, i)
    assert encoded.row_lengths.max() == 16
    assert encoded.lengths.tolist() == [
        sum(encoded.row_lengths[encoded.rows(np.array([i]))]) for i in range(len(TEXTS))
    ]


def test_a_text_that_fits_is_read_as_without_windows():
    short = [text for text in TEXTS if len(text.split()) <= 14]
    plain = encode(TOKENIZER, (short,), max_length=16)
    windowed = encode(TOKENIZER, (short,), max_length=16, windows=FEW)
    assert np.array_equal(plain.ids, windowed.ids)
    assert windowed.windows.counts.tolist() == [1] * len(short)


def test_the_light_tokenizer_makes_the_same_windows(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    pairs = (["good film", *TEXTS[:2]], [TEXTS[1], TEXTS[4], "bad"])
    few = Windows(stride=4, max_windows=3)
    for texts in ((TEXTS,), pairs):
        ours = encode(TOKENIZER, texts, max_length=24, windows=few)
        reader = open_tokenizer(tmp_path / "tokenizer.json", max_length=24, windows=few)
        theirs = encode_light(reader, texts, pad_id=0, windows=few)
        assert np.array_equal(ours.ids, theirs.ids)
        assert np.array_equal(ours.types, theirs.types)
        assert np.array_equal(ours.windows.offsets, theirs.windows.offsets)


def test_of_too_many_windows_the_first_the_last_and_some_between_are_read():
    encoded = encode(TOKENIZER, (TEXTS,), max_length=16, windows=FEW)
    capped = encode(
        TOKENIZER, (TEXTS,), max_length=16, windows=FEW.model_copy(update={"max_windows": 3})
    )
    assert capped.windows.counts.tolist() == [1, 3, 1, 1, 3]
    all_rows, three = encoded.rows(np.array([1])), capped.rows(np.array([1]))
    assert content(capped, three[0]) == content(encoded, all_rows[0])
    assert content(capped, three[-1]) == content(encoded, all_rows[-1])
    assert capped.windows.partly.tolist() == [False, True, False, False, True]


def test_lengths_are_of_the_whole_text_and_truncated_is_what_is_not_read():
    def count(texts):
        return [len(text.split()) + 2 for text in texts[0]]

    windows = Windows(stride=4, max_windows=4)
    encoded = encode(TOKENIZER, (TEXTS,), max_length=16, windows=windows)
    found = input_lengths(encoded, 16, [TEXTS], count)
    assert found.tokens.tolist() == [5, 92, 3, 16, 42]
    assert found.truncated.tolist() == [False, True, False, False, False]
    assert found.windows.tolist() == [1, 4, 1, 1, 4]
    cut = input_lengths(encode(TOKENIZER, (TEXTS,), max_length=16), 16, [TEXTS], count)
    assert cut.tokens.tolist() == found.tokens.tolist()
    assert cut.truncated.tolist() == [False, True, False, False, True]
    assert cut.windows is None


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(2, 9))
def test_windows_that_are_read_are_spread_and_belong_to_their_texts(counts, most):
    read, windows = read_windows(np.array(counts), most, "mean")
    assert windows.counts.tolist() == [min(n, most) for n in counts]
    assert read.sum() == windows.offsets[-1]
    start = 0
    for n in counts:
        own = np.flatnonzero(read[start : start + n])
        assert own[0] == 0
        assert own[-1] == n - 1
        gaps = np.diff(own)
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
        start += n


@pytest.mark.parametrize("how", ["mean", "max"])
def test_outputs_are_pooled_text_by_text_alike_in_numpy_and_torch(how):
    windows = TextWindows(np.array([0, 2, 3, 6]), np.zeros(3, dtype=bool), how)
    values = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    expected = [getattr(values[a:b], how)(axis=0) for a, b in ((0, 2), (2, 3), (3, 6))]
    assert np.allclose(windows.pool(values), expected)
    index = np.array([2, 0])
    rows = windows.rows(index)
    assert rows.tolist() == [3, 4, 5, 0, 1]
    pooled = windows.pool_tensor(torch.from_numpy(values[rows]), index)
    assert np.allclose(pooled, [expected[2], expected[0]])


def test_the_gradient_of_a_pooled_loss_reaches_every_window():
    windows = TextWindows(np.array([0, 2, 3]), np.zeros(2, dtype=bool), "mean")
    values = torch.zeros(3, 2, requires_grad=True)
    windows.pool_tensor(values, np.array([0, 1])).sum().backward()
    assert values.grad.tolist() == [[0.5, 0.5], [0.5, 0.5], [1.0, 1.0]]


def test_a_batch_is_divided_by_its_windows_and_no_text_is():
    encoded = encode(TOKENIZER, (TEXTS,), max_length=16, windows=FEW)
    counts = encoded.windows.counts
    assert counts.tolist() == [1, 9, 1, 1, 4]
    parts = [part.tolist() for part in micro_batches(encoded, np.array([4, 0, 1, 2, 3]), 5)]
    assert parts == [[4, 0], [1], [2, 3]]
    plain = encode(TOKENIZER, (TEXTS,), max_length=16)
    assert [len(part) for part in micro_batches(plain, np.arange(5), 2)] == [2, 2, 1]


def test_a_batch_of_windows_is_padded_to_the_longest_of_them():
    encoded = encode(TOKENIZER, (TEXTS,), max_length=16, windows=FEW)
    batch = collate(encoded, encoded.rows(np.array([0, 1])))
    assert batch["input_ids"].shape == (10, 16)
    assert batch["attention_mask"].sum(1).tolist() == [5, *[16] * 8, 12]


def test_windows_are_kept_on_disk_apart_from_cut_texts(tmp_path):
    rows = Examples(
        np.array([f"{i}" for i in range(1500)]), ([TEXTS[i % 5] for i in range(1500)],),
        np.zeros(1500, dtype=np.int64),
    )  # fmt: skip
    few = Windows(stride=4, max_windows=3)
    cut = encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path)
    first = encode_once(TOKENIZER, rows, max_length=16, windows=few, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    again = encode_once(TOKENIZER, rows, max_length=16, windows=few, folder=tmp_path)
    assert cut.windows is None
    assert np.array_equal(first.ids, again.ids)
    assert np.array_equal(first.windows.offsets, again.windows.offsets)
    assert np.array_equal(first.windows.partly, again.windows.partly)
    other = encode_once(
        TOKENIZER, rows, max_length=16, windows=Windows(pooling="max", stride=4, max_windows=3),
        folder=tmp_path,
    )  # fmt: skip
    assert other.windows.pooling == "max"


def test_a_tokenizer_that_makes_no_windows_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ModelError, match="fast tokenizer"):
        encode(Slow(), (TEXTS,), max_length=16, windows=FEW)


@given(
    words=st.lists(st.integers(1, 90), min_size=1, max_size=8),
    max_length=st.integers(16, 40),
    share=st.integers(0, 8),
    most=st.integers(2, 9),
)
@settings(max_examples=40)
def test_windows_are_counted_beforehand_as_the_tokenizer_makes_them(words, max_length, share, most):
    rule = Windows(stride=share, max_windows=most)
    texts = [" ".join(KNOWN[:n]) for n in words]
    made = encode(TOKENIZER, (texts,), max_length=max_length, windows=rule)
    whole = encode(TOKENIZER, (texts,), max_length=200).lengths
    counted = count_windows(whole, max_length, rule, special=2)
    assert counted.tolist() == made.windows.counts.tolist()
    beyond = whole > longest_read(max_length, rule, special=2)
    assert beyond.tolist() == made.windows.partly.tolist()
