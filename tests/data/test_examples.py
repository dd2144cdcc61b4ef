import hashlib

import numpy as np
import pytest

from kdlora.data.examples import Examples, TaskData, fingerprint, ids_of_keys, ids_of_texts, overlap
from kdlora.vocabulary.task import TASKS


def examples(texts, labels=None, dtype=np.int64):
    labels = np.array(labels if labels is not None else [0] * len(texts), dtype=dtype)
    return Examples(ids_of_texts("t", (texts,)), (list(texts),), labels)


def test_an_id_is_the_start_of_the_sha256_of_task_texts_and_occurrence():
    ids = ids_of_texts("mood", (["ab", "ab"], ["é", "é"]))
    said = ["4:mood2:ab1:é1:0", "4:mood2:ab1:é1:1"]
    assert ids.tolist() == [hashlib.sha256(s.encode()).hexdigest()[:16] for s in said]
    assert ids.dtype == np.dtype("<U16")


def test_ids_tell_apart_where_one_text_ends_and_the_next_begins():
    a = ids_of_texts("t", (["ab"], ["c"]))
    b = ids_of_texts("t", (["a"], ["bc"]))
    c = ids_of_texts("t", (["a1:b"], ["c"]))
    d = ids_of_texts("t", (["a"], ["b1:c"]))
    assert len({*a, *b, *c, *d}) == 4


def test_ids_depend_on_the_task_and_on_no_other_row():
    alone = ids_of_texts("t", (["x"],))
    among = ids_of_texts("t", (["y", "x", "z"],))
    assert alone[0] == among[1]
    assert alone[0] != ids_of_texts("u", (["x"],))[0]


def test_ids_of_keys_ignore_the_texts():
    ids = ids_of_keys("t", ["7", "8"])
    assert len(set(ids)) == 2
    assert ids[0] == hashlib.sha256(b"1:t1:7").hexdigest()[:16]


def test_take_keeps_rows_together():
    rows = Examples(
        np.array(["a", "b", "c"], dtype="<U16"), (["A", "B", "C"], ["1", "2", "3"]), np.arange(3)
    )
    got = rows.take(np.array([2, 0]))
    assert (got.ids.tolist(), got.texts, got.labels.tolist()) == (
        ["c", "a"],
        (["C", "A"], ["3", "1"]),
        [2, 0],
    )
    assert rows.take(np.array([False, True, False])).texts == (["B"], ["2"])
    assert len(rows.take(np.array([], dtype=int))) == 0


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="differ in length"):
        Examples(np.array(["a"]), (["A", "B"],), np.array([0]))


def test_overlap_counts_rows_whose_every_text_stands_elsewhere():
    def pair(a, b):
        return Examples(ids_of_texts("t", (a, b)), (a, b), np.zeros(len(a), dtype=np.int64))

    report = pair(["x", "x", "y"], ["1", "2", "1"])
    assert overlap(report, pair(["x", "x"], ["1", "1"]), pair(["y"], ["1"])) == 2
    assert overlap(report, pair(["y"], ["2"])) == 0


def test_fingerprint_changes_with_every_thing_it_covers():
    base = {"train": examples(["a", "b"], [0, 1]), "report": examples(["c"])}
    others = [
        {"train": examples(["b", "a"], [0, 1]), "report": examples(["c"])},
        {"train": examples(["a", "b"], [1, 1]), "report": examples(["c"])},
        {"train": examples(["a", "b"], [0, 1]), "report": examples(["d"])},
        {"train": examples(["a", "b"], [0, 1], np.float32), "report": examples(["c"])},
        {"train": examples(["a"]), "report": examples(["b", "c"], [1, 0])},
        {
            "train": Examples(base["train"].ids, (["a", "B"],), base["train"].labels),
            "report": examples(["c"]),
        },
    ]
    again = {"train": examples(["a", "b"], [0, 1]), "report": examples(["c"])}
    assert fingerprint(again) == fingerprint(base)
    assert len({fingerprint(splits) for splits in [base, *others]}) == 7


def test_a_split_is_asked_for_by_name():
    train, selection, report = examples(["a"]), examples(["b"]), examples(["c"])
    data = TaskData(TASKS["sst2"], train, selection, {"report": report}, 0, "")
    assert [data.split(s) for s in ("train", "selection", "report")] == [train, selection, report]
    with pytest.raises(KeyError, match="there are train, selection, report"):
        data.split("test")
