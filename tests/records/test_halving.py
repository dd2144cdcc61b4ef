"""Decisions: a pure function of scores, written once, read back, and summed up run by run."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdlora import files
from kdlora.records import halving as d
from kdlora.records.store import Store
from kdlora.spec.halving import Race


def race(*ids: str, rungs=(1, 2), keep=0.5, pair="p") -> d.Race:
    return Race(pair, "rte", 1, tuple((f"arm-{i}", i) for i in ids), rungs, keep)


def rungs(scores: dict[str, float | None], *, direction=1, failed=()) -> list:
    made = {
        i: d.Rung(epoch=1, step=10, metric="accuracy", direction=direction, score=score)
        for i, score in scores.items()
    }
    return [(f"arm-{i}", i, None if i in failed else made[i]) for i in scores]


def kept(scores, **options) -> list[str]:
    return d.decide(race(*scores), 1, rungs(scores, **options)).kept


def test_the_better_half_goes_on():
    assert kept({"a": 0.5, "b": 0.7, "c": 0.6, "e": 0.4}) == ["b", "c"]
    assert kept({"a": 0.5, "b": 0.7, "c": 0.6, "e": 0.4}, direction=-1) == ["e", "a"]
    assert kept({"a": 0.5, "b": 0.7, "c": 0.6}) == ["b", "c"]  # half of three, rounded up


def test_ties_keep_the_plans_order_and_undefined_scores_come_last():
    assert kept({"a": 0.5, "b": 0.5, "c": 0.5, "e": 0.5}) == ["a", "b"]
    assert kept({"a": None, "b": 0.1, "c": None, "e": 0.0}) == ["b", "e"]
    assert kept({"a": None, "b": None}) == ["a"]


def test_a_failed_run_takes_a_place_and_never_goes_on():
    scores = {"a": 0.9, "b": 0.1, "c": 0.2, "e": 0.3}
    made = d.decide(race(*scores), 1, rungs(scores, failed="a"))
    assert (made.kept, made.stopped) == (["e", "c"], ["b"])
    assert made.candidates[-1].failed
    everyone = d.decide(race(*scores), 1, rungs(scores, failed="abce"))
    assert (everyone.kept, everyone.stopped) == ([], [])


@given(st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=2, max_size=12),
       st.floats(0.05, 0.95))  # fmt: skip
def test_nobody_is_lost_and_no_one_better_is_stopped(values, keep):
    scores = {f"r{i}": value for i, value in enumerate(values)}
    one = race(*scores, keep=keep)
    made = d.decide(one, 1, rungs(scores))
    assert sorted(made.kept + made.stopped) == sorted(scores)
    assert len(made.kept) == one.survivors(len(values))
    worst = min((scores[i] if scores[i] is not None else -2.0) for i in made.kept)
    assert all((scores[i] if scores[i] is not None else -2.0) <= worst for i in made.stopped)


def test_the_first_decision_holds(tmp_path):
    store, one = Store(tmp_path), race("a", "b")
    first = d.decide(one, 1, rungs({"a": 0.9, "b": 0.1}))
    second = d.decide(one, 1, rungs({"a": 0.1, "b": 0.9}))
    assert d.record_decision(store, one, first) == first
    assert d.record_decision(store, one, second) == first
    assert d.read_decision(tmp_path, one, 1) == first
    assert [path.suffix for path in (tmp_path / d.FOLDER).iterdir()] == [".json"]


def test_a_damaged_decision_is_set_aside_and_made_again(tmp_path):
    store, one = Store(tmp_path), race("a", "b")
    made = d.decide(one, 1, rungs({"a": 0.9, "b": 0.1}))
    d.record_decision(store, one, made)
    (path,) = (tmp_path / d.FOLDER).glob("*.json")
    path.write_text(path.read_text()[:40])
    assert d.read_decision(tmp_path, one, 1) is None
    assert path.exists()  # looking moves nothing
    assert d.record_decision(store, one, made) == made
    assert [aside.name for aside in store.damaged()] == [f"{path.stem}.damaged-0.json"]


def test_a_file_system_without_links_keeps_the_first_decision_too(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", refuse)
    store, one = Store(tmp_path), race("a", "b")
    first = d.decide(one, 1, rungs({"a": 0.9, "b": 0.1}))
    assert d.record_decision(store, one, first) == first
    assert d.record_decision(store, one, d.decide(one, 1, rungs({"a": 0.1, "b": 0.9}))) == first


def _record(root, one, epoch, scores):
    made = d.decide(one, epoch, rungs(scores))
    return d.record_decision(Store(root), one, made)


def test_a_race_goes_rung_by_rung(tmp_path):
    one = race("a", "b", "c", "e")
    assert d.race_state(tmp_path, one).epoch == 1
    assert d.verdict_of("a", [d.race_state(tmp_path, one)]) == d.HalvingVerdict(pause_epoch=1)
    _record(tmp_path, one, 1, {"a": 0.4, "b": 0.3, "c": 0.2, "e": 0.1})
    now = d.race_state(tmp_path, one)
    assert (now.epoch, [i for _, i in now.alive]) == (2, ["a", "b"])
    assert d.verdict_of("b", [now]) == d.HalvingVerdict(pause_epoch=2)
    stop = d.verdict_of("e", [now]).stop
    assert (stop.epoch, stop.score, stop.kept) == (1, 0.1, ("arm-a", "arm-b"))
    assert "stopped after epoch 1 at accuracy 0.1" in str(stop)
    _record(tmp_path, one, 2, {"a": 0.4, "b": 0.5})
    now = d.race_state(tmp_path, one)
    assert now.epoch is None
    assert d.verdict_of("b", [now]) == d.HalvingVerdict()
    assert set(d.stopped_runs(tmp_path, [one])) == {"a", "c", "e"}


def test_a_rung_that_would_stop_nobody_is_none(tmp_path):
    one = race("a", "b", keep=0.9)
    assert d.race_state(tmp_path, one).epoch is None
    two = race("a", "b", rungs=(1, 2))
    _record(tmp_path, two, 1, {"a": 0.1, "b": 0.2})
    assert d.race_state(tmp_path, two).epoch is None  # b is alone


def test_a_run_of_two_blocks_goes_on_while_one_keeps_it(tmp_path):
    here, there = race("x", "a"), race("x", "b", pair="q")
    _record(tmp_path, here, 1, {"x": 0.1, "a": 0.2})
    states = [d.race_state(tmp_path, one) for one in (here, there)]
    assert d.verdict_of("x", states) == d.HalvingVerdict(
        pause_epoch=1
    )  # the other block has not decided
    _record(tmp_path, there, 1, {"x": 0.3, "b": 0.2})
    states = [d.race_state(tmp_path, one) for one in (here, there)]
    assert d.verdict_of("x", states) == d.HalvingVerdict()
    assert set(d.stopped_runs(tmp_path, [here, there])) == {"b"}


def test_failures_are_not_reported_as_stopped(tmp_path):
    one = race("a", "b")
    made = d.decide(one, 1, rungs({"a": 0.1, "b": 0.2}, failed="a"))
    d.record_decision(Store(tmp_path), one, made)
    assert d.stopped_runs(tmp_path, [one]) == {}
    assert d.verdict_of("a", [d.race_state(tmp_path, one)]).stop.failed


def test_the_rung_of_a_learning_curve():
    history = [
        {"step": 5, "epoch": 0.5, "selection": {"accuracy": 0.5}},
        {"step": 10, "epoch": 1.0, "selection": {"accuracy": 0.6}},
        {"step": 15, "epoch": 1.5, "selection": {"accuracy": float("nan")}},
    ]
    assert d.rung_of(history, 1, "accuracy", 1).score == 0.6
    assert d.rung_of(history, 2, "accuracy", 1).score is None
    assert d.rung_of(history, 1, "accuracy", 1).step == 10
    assert d.rung_of([], 1, "accuracy", 1).score is None


@pytest.mark.parametrize("text", ["", "{}", "nonsense"])
def test_a_torn_rung_is_no_rung(tmp_path, text):
    store = Store(tmp_path)
    rung = rungs({"a": 0.5})[0][2]
    store.folder("a").mkdir(parents=True)
    d.write_rung(store, "a", rung)
    assert d.read_rung(store, "a", 1) == rung
    (store.folder("a") / "rung-1.json").write_text(text)
    assert d.read_rung(store, "a", 1) is None
