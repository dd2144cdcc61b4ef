"""A short version of the faults script, and that it would see what it looks for."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from benchmarks import damage, disturbed_engine, faults, kills
from kdlora.records.store import Store


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    plan, store = kills.undisturbed(folder, 4)
    return folder, plan, store


def test_a_disturbed_study_ends_like_an_undisturbed_one(reference, monkeypatch):
    folder, plan, store = reference
    disturber = kills.Disturber(folder, plan, seed=1, engines=1)
    now = kills.time.monotonic()
    for number, what in enumerate(("worker", "engine"), start=1):
        monkeypatch.setattr(kills, "TARGETS", {what: 1.0})
        disturber.disturb(number, now + 240)
    disturber.finish(now + 600)
    assert disturber.outcome.kills == {"worker": 1, "engine": 1}
    assert not disturber.outcome.problems
    assert not kills.check(plan, store, disturber.store, disturber.harmed)


@pytest.mark.parametrize("how", kills.DAMAGES)
def test_every_damage_is_mended_and_kept(reference, tmp_path, how, monkeypatch):
    """A damaged record is done again and set aside; a dead machine's lease is taken over."""
    _, plan, store = reference
    shutil.copytree(store.root, tmp_path / "study")
    disturber = kills.Disturber(tmp_path, plan, seed=2)
    run = plan.runs[-1]  # nobody learns from it
    if how == "foreign lease":
        (disturber.store.folder(run.run_id) / "record.json").unlink()
    monkeypatch.setattr(kills, "EXPIRY_S", 2.0)  # of the lease that is left, too
    disturber.damage(run, how)
    assert disturber.outcome.damages[how] == 1
    assert len(disturber.harmed) == (how != "foreign lease")
    disturbed_engine.work(disturber.store.root, tmp_path / "runs.json", kills.EXPIRY_S)
    assert not kills.check(plan, store, disturber.store, disturber.harmed)


def test_damaged_weights_and_logits_are_kept_and_made_again(reference, tmp_path, monkeypatch):
    _, plan, store = reference
    monkeypatch.setattr(faults, "REPAIRED", ("model/*.safetensors",))
    assert faults.repairs(tmp_path, plan, store, seed=1) == [
        {"file": "model/*.safetensors", "problems": []}
    ]


def test_no_damage_to_any_kind_of_file_changes_what_is_read(reference, tmp_path):
    """A small `python -m benchmarks faults`: a bit or a cut in each of 24 kinds of files."""
    _, plan, store = reference
    tallies = damage.damage_all(tmp_path, plan, store, number=100, seed=3)
    assert len(tallies) > 20
    assert {tally.kind: tally.wrong for tally in tallies if tally.wrong} == {}
    seen = sum(tally.named + tally.untrusted for tally in tallies)
    assert seen > 80
    text = faults.page([{"seconds": 1.0, "kinds": [vars(tally) for tally in tallies]}])
    assert "| predictions | " in text
    assert "Nothing lost" in text


def test_a_reader_that_looks_away_is_seen(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    blind = damage.Kind("blind", path, lambda: path.read_bytes())
    fragile = damage.Kind("fragile", path, lambda: path.read_bytes()[6])
    for kind in (blind, fragile):
        tally = damage.damage(kind, random.Random(0), 20)
        assert len(tally.wrong) > 3
        assert faults.problems_of([{"kinds": [vars(tally)]}])


def test_the_check_sees_what_is_wrong(reference, tmp_path):
    _, plan, store = reference
    copy = Store(tmp_path / "copy")
    shutil.copytree(store.root, copy.root)
    assert kills.check(plan, store, copy, set()) == []
    first, second = plan.runs[:2]
    shutil.rmtree(copy.folder(first.run_id))
    path = copy.folder(second.run_id) / "record.json"
    record = copy.read(second.run_id)
    quality = record.quality.model_copy(update={"n": {**record.quality.n, "report": 1}})
    changed = record.model_copy(update={"quality": quality}).sealed()
    path.write_text(json.dumps(changed.model_dump(mode="json", by_alias=True)))
    assert kills.check(plan, store, copy, {"a lost content"}) == [
        "records: 3 instead of the 4 planned",
        f"{first.run_id}: no record",
        f"{second.run_id}: another quality than undisturbed",
        "1 of 1 damaged records were not kept",
    ]
