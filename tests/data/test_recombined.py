"""Pairs that are made anew of the train rows' texts."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora.data import recombined as module
from kdlora.data.examples import Examples, TaskData, ids_of_texts
from kdlora.data.recombined import NEAREST, RANDOM, recombined
from kdlora.data.unlabelled import load_unlabelled
from kdlora.errors import InputError
from kdlora.planning.workload import rows_of, work_of
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import DistilledRun, TextsRef
from kdlora.vocabulary.task import TASKS

THINGS = ("dog", "cat", "car", "boat", "tree", "fish", "bird", "king", "drum", "lamp")
PAIRS = [(f"the {a} runs {i}", f"a {a} is {b}") for i, a in enumerate(THINGS) for b in ("on", "up")]


def made(seed: int = 0) -> list[tuple[str, str]]:
    return recombined(PAIRS, np.random.default_rng(seed))


def test_each_first_text_meets_the_nearest_of_others_and_a_random_one():
    pairs = [(f"{a} {b}", f"{b} {a} {c}") for a in THINGS for b, c in (("on", "x"), ("up", "y"))]
    found = recombined(pairs, np.random.default_rng(0))
    assert len(set(found)) == len(found) <= (NEAREST + RANDOM) * len(pairs)
    assert not set(found) & set(pairs)
    assert {left for left, _ in found} == {left for left, _ in pairs}
    assert ("dog on", "up dog y") in found  # of the same thing, but another pair
    # further words than the nearest share stand in the random ones alone
    strangers = [pair for pair in found if not set(pair[0].split()) & set(pair[1].split())]
    assert 0 < len(strangers) <= RANDOM * len(pairs)


def test_it_is_drawn_by_the_generator_alone():
    assert made() == made() != made(1)


def test_no_text_meets_itself_and_texts_without_words_make_no_pair():
    same = [("a dog", "a cat"), ("a cat", "a dog"), ("a dog", "a bird")]
    assert all(a != b for a, b in recombined(same, np.random.default_rng(0)))
    assert recombined([("", "?"), ("!", "")], np.random.default_rng(0)) == []


def test_of_many_texts_some_are_compared(monkeypatch):
    monkeypatch.setattr(module, "MOST_TEXTS", 4)
    assert len({left for left, _ in made()}) == 4


def test_pairs_of_the_held_out_rows_are_no_training_texts():
    def part(rows: list[tuple[str, str]]) -> Examples:
        texts = tuple(list(column) for column in zip(*rows, strict=True))
        return Examples(ids_of_texts("stsb", texts), texts, np.zeros(len(rows), np.float32))

    data = TaskData(
        TASKS["stsb"], part(PAIRS), part(made()[:3]), {"report": part(made()[3:5])}, 0, "f"
    )
    source = TextsRef(file="recombined", text=("a", "b"), fingerprint="recombined", max_rows=30)
    extra = load_unlabelled([source], data, split_seed=0)
    found = set(zip(*extra.rows.texts, strict=True))
    assert len(found) == 30
    assert not found & {*PAIRS, *made()[:5]}
    assert np.isnan(extra.rows.labels).all()
    assert extra.counts()["held_out"] >= 1
    again = load_unlabelled([source], data, split_seed=0)
    assert again.rows.texts == extra.rows.texts


def study(task: str, **changes):
    return make_study({
        "name": "x", "tasks": [task], "unlabelled": {task: "recombined"}, "seeds": [1],
        "pairs": [{"teacher": "minilm-l6", "student": "minilm-l3"}],
        "arms": ["teacher/fft", "student/kd-lora"], **changes,
    })  # fmt: skip


def test_a_plan_counts_them_and_knows_them_by_their_word():
    run = next(r for r in make_plan(study("stsb")).runs if isinstance(r, DistilledRun))
    assert [source.fingerprint for source in run.unlabelled] == ["recombined"]
    rows = rows_of(run.task, run.data, {})
    epochs = run.training.epochs
    per_row = work_of(run, rows).steps * run.training.batch_size / epochs
    assert per_row == pytest.approx((1 + NEAREST + RANDOM) * rows.train, rel=0.01)


def test_single_texts_make_no_pairs():
    with pytest.raises(InputError, match="recombined makes pairs anew, but the task has one text"):
        make_plan(study("sst2"))
