from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from kdlora.data.examples import Examples, TaskData, ids_of_texts
from kdlora.distillation.soft_labels import (
    FILE,
    DamagedCache,
    SoftLabels,
    load,
    mean_of,
    save,
    soft_labels,
)
from kdlora.errors import ModelError
from kdlora.vocabulary.task import TASKS


def examples(words: list[str]) -> Examples:
    ids = ids_of_texts("rte", (words, words))
    return Examples(ids, (words, words), np.zeros(len(words), dtype=np.int64))


def data(fingerprint: str = "f") -> TaskData:
    parts = [examples([f"{name}{i}" for i in range(5)]) for name in "tsr"]
    return TaskData(TASKS["rte"], parts[0], parts[1], {"report": parts[2]}, 0, fingerprint)


def label(part: Examples) -> np.ndarray:
    """Logits that tell which text they belong to."""
    numbers = [sum(map(ord, text)) for text in part.texts[0]]
    return np.array([[n, -n] for n in numbers], dtype=np.float32)


def made(folder, **changes) -> tuple[SoftLabels, bool]:
    arguments = {"teacher_run_id": "t", "data": data(), "label": label, **changes}
    return soft_labels(folder, **arguments)


def test_logits_follow_their_example_in_any_order(tmp_path):
    soft, cached = made(tmp_path)
    assert not cached
    rng = np.random.default_rng(0)
    for part in (data().train, data().reports["report"]):
        shuffled = part.take(rng.permutation(len(part)))
        np.testing.assert_array_equal(soft.take(shuffled.ids), label(shuffled))


def test_the_cache_is_read_back_unchanged(tmp_path):
    soft, _ = made(tmp_path)

    def never(part):
        raise AssertionError("labelled twice")

    again, cached = made(tmp_path, label=never)
    assert cached
    np.testing.assert_array_equal(again.logits, soft.logits)
    np.testing.assert_array_equal(again.ids, soft.ids)


@pytest.mark.parametrize("changes", [{"teacher_run_id": "other"}, {"data": data("changed")}])
def test_a_cache_of_another_teacher_or_other_rows_is_not_used(tmp_path, changes):
    made(tmp_path)
    _, cached = made(tmp_path, **changes)
    assert not cached


def test_a_cache_of_an_earlier_training_of_the_same_teacher_is_not_used(tmp_path):
    made(tmp_path, teacher_checksum="first")
    assert made(tmp_path, teacher_checksum="first")[1]
    again, cached = made(tmp_path, teacher_checksum="second", label=lambda part: label(part) + 1)
    assert not cached
    part = data().train
    np.testing.assert_array_equal(again.take(part.ids), label(part) + 1)
    assert load(tmp_path).teacher_checksum == "second"


def test_a_cache_from_before_checksums_were_kept_is_used(tmp_path):
    made(tmp_path)
    assert made(tmp_path, teacher_checksum="any")[1]


def test_a_torn_cache_is_set_aside_and_made_again_by_who_may_label(tmp_path):
    made(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    cuts = (0, 7, len(content) // 2, len(content) - 1)
    for cut in cuts:
        (tmp_path / FILE).write_bytes(content[:cut])
        with pytest.raises(DamagedCache):
            load(tmp_path)
        assert made(tmp_path)[1] is False
        assert load(tmp_path) is not None
    aside = sorted(tmp_path.glob("*.damaged-*"))
    assert len(aside) == len(cuts)
    assert [path.read_bytes() for path in aside] == [content[:cut] for cut in cuts]


def test_one_flipped_bit_anywhere_in_a_cache_is_seen_or_changes_nothing(tmp_path):
    soft, _ = made(tmp_path)
    content = bytearray((tmp_path / FILE).read_bytes())
    seen = 0
    for at in range(len(content)):
        harmed = content.copy()
        harmed[at] ^= 1 << at % 8
        (tmp_path / FILE).write_bytes(harmed)
        try:
            found = load(tmp_path)
        except DamagedCache:
            seen += 1
        else:  # a blank, or the name under which the hash stands
            assert repr(found) == repr(soft)
    assert seen > 0.9 * len(content)


def test_a_cache_from_before_there_were_hashes_is_used(tmp_path):
    soft, _ = made(tmp_path)
    tensors = load_file(tmp_path / FILE)
    with safe_open(tmp_path / FILE, framework="np") as handle:
        metadata = {k: v for k, v in handle.metadata().items() if k != "content"}
    save_file(tensors, tmp_path / FILE, metadata=metadata)
    again, cached = made(tmp_path)
    assert cached
    assert np.array_equal(again.logits, soft.logits)


def test_who_waited_for_another_to_label_uses_what_that_one_made(tmp_path):
    @contextmanager
    def other_is_faster() -> Iterator[None]:
        made(tmp_path)
        yield

    def never(part):
        raise AssertionError("labelled twice")

    assert made(tmp_path, label=never, alone=other_is_faster)[1]


def test_an_unknown_example_is_refused(tmp_path):
    soft, _ = made(tmp_path)
    with pytest.raises(ModelError, match="1 of 2 examples have no soft label"):
        soft.take(np.array([soft.ids[0], "0" * 16]))


def test_classes_are_matched_by_name():
    soft = SoftLabels(np.array(["0" * 16]), np.array([[1.0, 2.0, 3.0]]), "t", ("a", "b", "c"), "f")
    np.testing.assert_array_equal(soft.permuted(("c", "a", "b")).logits, [[3.0, 1.0, 2.0]])
    with pytest.raises(ModelError, match="knows the classes"):
        soft.permuted(("a", "b", "x"))


def test_ids_survive_as_integers(tmp_path):
    ids = np.array(["0000000000000001", "ffffffffffffffff", "00ff00ff00ff00ff"])
    save(SoftLabels(ids, np.zeros((3, 2), np.float32), "t", ("a", "b"), "f"), tmp_path)
    assert load(tmp_path).ids.tolist() == ids.tolist()


def test_an_ensembles_logits_are_the_mean_of_what_all_know():
    one = SoftLabels(np.array(["a", "b", "c"]), np.array([[1.0], [2.0], [3.0]]), "t1", ("x",), "f")
    two = SoftLabels(np.array(["c", "b"]), np.array([[5.0], [4.0]]), "t2", ("x",), "f")
    mean = mean_of([one, two])
    assert mean.ids.tolist() == ["b", "c"]
    assert mean.logits.tolist() == [[3.0], [4.0]]
    assert "t1" in mean.teacher_run_id
    assert "t2" in mean.teacher_run_id
    assert mean_of([one]) is one


def test_joined_labels_know_both_sets():
    one = SoftLabels(np.array(["a"]), np.array([[1.0]]), "t", ("x",), "f")
    two = SoftLabels(np.array(["b"]), np.array([[2.0]]), "t", ("x",), "g")
    both = one.joined(two)
    assert both.take(np.array(["b", "a"])).tolist() == [[2.0], [1.0]]
    assert both.knows(np.array(["a", "z", "b"])).tolist() == [True, False, True]
