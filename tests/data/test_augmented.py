"""Texts that are made anew of the train rows by changing some of their words."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora.data.augmented import VERSIONS, augmented
from kdlora.data.examples import Examples, TaskData, ids_of_texts
from kdlora.data.unlabelled import load_unlabelled
from kdlora.errors import DataError
from kdlora.planning.workload import rows_of, work_of
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun, TextsRef
from kdlora.vocabulary.task import TASKS

ROWS = [
    (f"the {a} of day {i} was {b} indeed .",)
    for i in range(5)
    for a, b in (("film", "good"), ("song", "bad"))
]


def made(rows=ROWS, seed: int = 0) -> list[tuple[str, ...]]:
    return augmented(rows, np.random.default_rng(seed))


def edits(a: list[str], b: list[str]) -> int:
    """Words added, left out or replaced between two texts (Levenshtein)."""
    last = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(last[j] + 1, row[-1] + 1, last[j - 1] + (x != y)))
        last = row
    return last[-1]


def test_a_version_has_few_changes_and_no_word_that_no_row_has():
    found, words = made(), {word for (text,) in ROWS for word in text.split()}
    assert len(ROWS) * (VERSIONS - 1) < len(found) <= len(ROWS) * VERSIONS
    assert not set(found) & set(ROWS)
    for (text,) in found:
        assert set(text.split()) <= words
        # two changes at most of nine words; a swap is two edits of this distance
        assert min(edits(text.split(), row.split()) for (row,) in ROWS) <= 4


def test_words_are_replaced_added_left_out_and_swapped():
    lengths = Counter(len(text.split()) for (text,) in made())
    assert {len(text.split()) for (text,) in ROWS} == {9}
    assert lengths[8]
    assert lengths[9]
    assert lengths[10]
    bags = {tuple(sorted(text.split())) for (text,) in ROWS}
    assert any(tuple(sorted(text.split())) in bags for (text,) in made())  # swapped alone


def test_one_change_is_of_one_of_four_kinds():
    rows = [(f"the {a} was {b} {i}",) for i in range(8) for a in ("film", "song") for b in "xy"]
    kinds = Counter()
    for (text,) in made(rows):
        words = text.split()
        near = min((row.split() for (row,) in rows), key=lambda row: edits(words, row))
        swapped = sorted(words) == sorted(near) and edits(words, near) == 2
        kinds[len(words) - len(near), swapped] += swapped or edits(words, near) == 1
    assert set(kinds) == {(-1, False), (0, False), (0, True), (1, False)}
    assert min(kinds.values()) > 5


def test_it_is_drawn_by_the_generator_alone():
    assert made() == made() != made(seed=1)


def test_of_a_pair_one_text_is_changed():
    rows = [(f"the dog {i} runs home", f"a cat {i} sits there") for i in range(9)]
    found = made(rows)
    changed = Counter()
    for left, right in found:
        changed[left in {a for a, _ in rows}, right in {b for _, b in rows}] += 1
    assert changed[True, False]
    assert changed[False, True]
    assert not changed[False, False]
    assert not changed[True, True]


@given(
    st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=8), st.integers(0, 9)
)
def test_any_texts_make_new_rows_or_none(rows, seed):
    found = made(rows, seed)
    assert len(set(found)) == len(found) <= VERSIONS * len(rows)
    assert not set(found) & set(rows)


def test_one_word_makes_nothing_and_texts_without_spaces_are_changed_by_characters():
    assert made([("fine",), ("",), ("42",)]) == []
    found = made([("这部电影非常好看",), ("音乐很差劲",)])
    assert found
    assert all(" " not in text for (text,) in found)


def data_of(rows: list[tuple[str, ...]], held_out: list[tuple[str, ...]]) -> TaskData:
    def part(some: list[tuple[str, ...]]) -> Examples:
        texts = tuple(list(column) for column in zip(*some, strict=True))
        return Examples(ids_of_texts("sst2", texts), texts, np.zeros(len(some), np.int64))

    return TaskData(
        TASKS["sst2"], part(rows), part(held_out[:3]), {"report": part(held_out[3:])}, 0, "f"
    )


SOURCE = TextsRef(file="augmented", text=("sentence",), fingerprint="augmented", max_rows=20)


def test_versions_of_held_out_rows_are_no_training_texts():
    first = load_unlabelled([SOURCE], data_of(ROWS, [("x y",)] * 5), split_seed=0)
    assert len(first.rows) == 20
    taken = list(zip(*first.rows.texts, strict=True))[:5]
    again = load_unlabelled([SOURCE], data_of(ROWS, taken), split_seed=0)
    assert again.counts()["held_out"] == 5
    assert not set(zip(*again.rows.texts, strict=True)) & {*taken, *ROWS}


def test_texts_of_which_nothing_can_be_made_say_so():
    rows = [("fine",), ("bad",)]
    with pytest.raises(DataError, match="augmented: no text has two words"):
        load_unlabelled([SOURCE], data_of(rows, [("good",)] * 5), split_seed=0)


def test_a_plan_counts_them_and_knows_them_by_their_word():
    study = make_study({
        "name": "x", "tasks": ["sst2"], "unlabelled": {"sst2": "augmented"}, "seeds": [1],
        "pairs": [{"teacher": "minilm-l6", "student": "minilm-l3"}],
        "arms": ["teacher/fft", "student/kd-lora"],
    })  # fmt: skip
    run = next(r for r in make_plan(study).runs if isinstance(r, DistilledRun))
    assert [source.fingerprint for source in run.unlabelled] == ["augmented"]
    rows = rows_of(run.task, run.data, {})
    per_row = work_of(run, rows).steps * run.training.batch_size / run.training.epochs
    assert per_row == pytest.approx((1 + VERSIONS) * rows.train, rel=0.01)
