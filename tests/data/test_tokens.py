from __future__ import annotations

import numpy as np
import pytest

from kdlora.data import batches as tokens
from kdlora.data.batches import encode, encode_once
from kdlora.data.examples import Examples
from tests.harness.tiny_models import WORDS, tiny_config, tiny_tokenizer

TOKENIZER = tiny_tokenizer(tiny_config("bert"))


@pytest.fixture
def rows() -> Examples:
    rng = np.random.default_rng(0)
    first = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(30)]
    second = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(30)]
    ids = np.array([f"{i:016x}" for i in range(30)])
    return Examples(ids=ids, texts=(first, second), labels=np.zeros(30, dtype=np.int64))


@pytest.fixture(autouse=True)
def _keep_all(monkeypatch):
    monkeypatch.setattr(tokens, "WORTH_KEEPING", 1)


def same(a, b) -> bool:
    return (
        np.array_equal(a.ids, b.ids)
        and np.array_equal(a.offsets, b.offsets)
        and np.array_equal(a.types, b.types)
        and (a.pad_id, a.pad_left) == (b.pad_id, b.pad_left)
    )


def test_the_second_time_nothing_is_tokenised(rows, tmp_path, monkeypatch):
    expected = encode(TOKENIZER, rows.texts, max_length=16)
    assert same(encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path), expected)
    monkeypatch.setattr(tokens, "encode", None)
    assert same(encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path), expected)


def test_other_texts_lengths_and_tokenizers_have_files_of_their_own(rows, tmp_path):
    encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path)
    cut = encode_once(TOKENIZER, rows, max_length=8, folder=tmp_path)
    assert cut.lengths.max() == 8
    fewer = Examples(rows.ids[:9], tuple(c[:9] for c in rows.texts), rows.labels[:9])
    assert len(encode_once(TOKENIZER, fewer, max_length=16, folder=tmp_path)) == 9
    roberta = tiny_tokenizer(tiny_config("roberta"))
    assert encode_once(roberta, rows, max_length=16, folder=tmp_path).types is None
    assert len(list(tmp_path.glob("*.npz"))) == 4


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 torn", b"not an archive"])
def test_a_torn_file_is_made_again(rows, tmp_path, damage):
    expected = encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path)
    (path,) = tmp_path.glob("*.npz")
    path.write_bytes(damage)
    assert same(encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path), expected)
    assert path.stat().st_size > len(damage)


def test_a_full_disk_costs_only_the_cache(rows, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path)) == 30
    assert list(tmp_path.iterdir()) == []


def test_a_few_texts_are_not_kept(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "WORTH_KEEPING", 31)
    encode_once(TOKENIZER, rows, max_length=16, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_a_tokenizer_did_before_does_not_matter(rows, tmp_path, monkeypatch):
    """A call leaves its truncation and padding in the tokenizer, which is no part of its rules."""
    fresh, used = (tiny_tokenizer(tiny_config("bert")) for _ in range(2))
    used("the film", truncation=True, max_length=7, padding="max_length")
    encode_once(fresh, rows, max_length=16, folder=tmp_path)
    monkeypatch.setattr(tokens, "encode", None)
    encode_once(used, rows, max_length=16, folder=tmp_path)
