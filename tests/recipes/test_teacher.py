"""A teacher's logits between processes: computed once, whoever asks at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from kdlora.data.examples import Examples, TaskData, ids_of_texts
from kdlora.data.unlabelled import Unlabelled
from kdlora.recipes import teacher
from kdlora.records import leases
from kdlora.records.store import Store
from kdlora.spec.run import EncoderRef, GivenTeacherRun, TaskRef
from kdlora.spec.sections import Data, Training
from kdlora.vocabulary.task import TASKS


@pytest.fixture
def data() -> TaskData:
    parts = []
    for name in ("train", "selection", "report"):
        words = [f"{name} {number}" for number in range(5)]
        ids = ids_of_texts("rte", (words, words))
        parts.append(Examples(ids, (words, words), np.zeros(5, dtype=np.int64)))
    return TaskData(TASKS["rte"], parts[0], parts[1], {"report": parts[2]}, 0, "f")


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    """A store with a finished teacher `t`; tests give it what it answers by `answering`."""
    store = Store(tmp_path)
    store.folder("t").mkdir(parents=True)
    run = GivenTeacherRun(
        task=TaskRef(name="rte", version=1, source="hub"), seed=0, data=Data(),
        encoder=EncoderRef(name="e", source="hub"), training=Training(),
    )  # fmt: skip
    record = SimpleNamespace(run=run, checksum="c")
    monkeypatch.setattr(teacher, "finished_teacher", lambda run_id, store: record)
    monkeypatch.setattr(teacher, "check_scores", lambda *arguments: None)
    return store


def answering(monkeypatch, before: Callable[[Examples], None]) -> None:
    """The teacher answers 1 to everything, after what is to happen before."""

    def label(part: Examples) -> np.ndarray:
        before(part)
        return np.ones((len(part), 2), dtype=np.float32)

    model = SimpleNamespace(at_hand=False, label=label)
    monkeypatch.setattr(teacher, "teacher_of", lambda run, store, task: model)


def test_of_many_that_need_a_teachers_logits_one_computes_them(data, store, monkeypatch):
    labelled: list[int] = []

    def slowly(part: Examples) -> None:
        labelled.append(len(part))
        time.sleep(0.1)

    answering(monkeypatch, slowly)
    start, found = threading.Barrier(3), []

    def student(name: str) -> None:
        start.wait()
        found.append(teacher.logits_of("t", store, data, None, student=name))

    threads = [threading.Thread(target=student, args=[name]) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labelled == [5, 5, 5]  # each split once
    assert [paid_s >= 0.3 for paid_s in sorted(paid for _, paid in found)] == [False, False, True]
    assert sorted(paid for _, paid in found)[:2] == [0, 0]
    assert {soft.teacher_checksum for soft, _ in found} == {"c"}


@pytest.mark.parametrize("torn", [False, True], ids=["all labelled", "texts not labelled yet"])
def test_a_student_that_goes_on_keeps_the_seconds_it_paid(data, store, monkeypatch, torn):
    words = ["text"]
    texts = Unlabelled(Examples(ids_of_texts("x", (words, words)), (words, words), np.full(1, -1)))
    answering(monkeypatch, lambda part: time.sleep(0.05))
    _, first = teacher.logits_of("t", store, data, None if torn else texts, student="a")
    _, resumed = teacher.logits_of("t", store, data, texts, student="a")
    _, other = teacher.logits_of("t", store, data, texts, student="b")
    assert first >= 0.15
    assert resumed >= first + 0.05 if torn else resumed == first
    assert other == 0


def test_who_needs_the_splits_alone_does_not_wait_for_anothers_texts(data, store, monkeypatch):
    words = [f"text {number}" for number in range(7)]
    texts = Examples(ids_of_texts("texts", (words, words)), (words, words), np.full(7, -1))
    at_splits, waits, at_texts, over = (threading.Event() for _ in range(4))

    def hesitantly(part: Examples) -> None:
        """Labels the splits when another one waits for them, the texts when that one is done."""
        at_splits.set()
        if len(part) == 7:
            at_texts.set()
        assert (over if len(part) == 7 else waits).wait(60)

    def waited_for(place: Path) -> AbstractContextManager[object]:
        if at_splits.is_set():
            waits.set()
        return leases.waited_for(place, every_s=1.0)  # so that it comes too late for the splits

    answering(monkeypatch, hesitantly)
    monkeypatch.setattr(teacher, "waited_for", waited_for)
    with ThreadPoolExecutor(2) as pool:
        label = partial(teacher.logits_of, "t", store, data)
        of_texts = pool.submit(label, Unlabelled(texts), student="a")
        assert at_splits.wait(60)
        alone = pool.submit(label, None, student="b")
        assert at_texts.wait(60)
        try:
            soft, paid_s = alone.result(timeout=30)
        finally:
            over.set()
        assert (len(soft.ids), paid_s) == (15, 0)
        assert len(of_texts.result()[0].ids) == 22
