"""A teacher's logits between processes: computed once, whoever asks at the same time."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from kdlora.data.examples import Examples, TaskData, ids_of_texts
from kdlora.recipes import teacher
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


def test_of_many_that_need_a_teachers_logits_one_computes_them(data, tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.folder("t").mkdir(parents=True)
    run = GivenTeacherRun(
        task=TaskRef(name="rte", version=1, source="hub"), seed=0, data=Data(),
        encoder=EncoderRef(name="e", source="hub"), training=Training(),
    )  # fmt: skip
    record = SimpleNamespace(run=run, checksum="c")
    labelled: list[int] = []

    def label(part: Examples) -> np.ndarray:
        labelled.append(len(part))
        time.sleep(0.1)
        return np.ones((len(part), 2), dtype=np.float32)

    monkeypatch.setattr(teacher, "finished_teacher", lambda run_id, store: record)
    model = SimpleNamespace(at_hand=False, label=label)
    monkeypatch.setattr(teacher, "teacher_of", lambda run, store, task: model)
    monkeypatch.setattr(teacher, "check_scores", lambda *arguments: None)
    start, found = threading.Barrier(3), []

    def student() -> None:
        start.wait()
        found.append(teacher.logits_of("t", store, data, None))

    threads = [threading.Thread(target=student) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labelled == [5, 5, 5]  # each split once
    assert sorted(cached for _, cached in found) == [False, True, True]
    assert {soft.teacher_checksum for soft, _ in found} == {"c"}
