from __future__ import annotations

import errno
import json
import os
import re
import shutil

import pytest

from kdlora import __version__
from kdlora.errors import StoreError
from kdlora.records import leases
from kdlora.records import store as store_module
from kdlora.records.record import Quality, Record, checksum
from kdlora.records.store import AlreadyDone, Store, write_json
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan


@pytest.fixture
def run():
    study = make_study(
        {"name": "s", "tasks": ["rte"], "pairs": [{"teacher": "big", "student": "small"}]}
    )
    return make_plan(study).runs[2]


def record_of(run) -> Record:
    splits = {"selection": {"accuracy": 0.5}, "report": {"accuracy": 0.75}}
    n = {"train": 9, "selection": 4, "report": 4}
    return Record(
        run_id=run.run_id,
        run=run,
        quality=Quality(primary="accuracy", direction=1, splits=splits, n=n),
    )


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "study")
    store.prepare()
    return store


def test_what_is_written_is_read(store, run):
    store.begin(run)
    store.finish(record_of(run))
    found = store.read(run.run_id)
    assert found.run == run
    assert found.quality.score == 0.75
    assert store.is_done(run.run_id)


def test_a_run_without_a_record_is_not_done(store, run):
    folder = store.begin(run)
    (folder / "model").mkdir()
    (folder / "history.jsonl").write_text("{}\n")
    assert store.read(run.run_id) is None


def test_finishing_drops_the_checkpoint_and_the_old_failure(store, run):
    folder = store.begin(run)
    (folder / "checkpoint.pt").write_bytes(b"x")
    store.fail(record_of(run).model_copy(update={"status": "failed", "error": "boom"}))
    assert store.read_failure(run.run_id).error == "boom"
    assert not store.is_done(run.run_id)
    store.finish(record_of(run))
    assert sorted(p.name for p in folder.iterdir()) == ["record.json", "spec.json"]


def test_a_torn_record_counts_for_nothing_and_is_set_aside_by_who_holds_the_lease(store, run):
    folder = store.begin(run)
    store.finish(record_of(run))
    path = folder / "record.json"
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:cut])
        assert store.read(run.run_id) is None
        assert path.read_bytes() == whole[:cut]
        assert store.damaged_in_place() == [path]
        with store.lease(run.run_id):
            assert not path.exists()
    assert len(store.damaged()) == len(range(0, len(whole) - 1, 97))
    assert store.damaged_in_place() == []


def listing(store):
    """Every file below a store with what it holds."""
    return {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}


def looked_at(store, run):
    """All that commands do which only read."""
    store.read(run.run_id)
    store.read_failure(run.run_id)
    store.is_done(run.run_id)
    store.damaged()
    store.damaged_in_place()


@pytest.mark.parametrize("name", ["record.json", "failed.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b"[" * 3000, b'{"schema": 2}'])
def test_looking_moves_nothing_whatever_lies_there(store, run, name, content):
    (store.begin(run) / name).write_bytes(content)
    before = listing(store)
    looked_at(store, run)
    assert listing(store) == before
    assert [p.name for p in store.damaged_in_place()] == [name]


@pytest.mark.parametrize("name", ["record.json", "failed.json"])
def test_a_pipe_in_the_place_of_a_record_is_not_waited_for(store, run, name):
    os.mkfifo(store.begin(run) / name)
    with pytest.raises(StoreError, match=f"{name}: it is a pipe"):
        looked_at(store, run)


def of_another_version(store, run, change):
    """A record as another version would have written it: whole, with a checksum that fits."""
    values = record_of(run).sealed().model_dump(mode="json", by_alias=True)
    values["environment"] = {"versions": {"kdlora": "9.8"}}
    change(values)
    values["checksum"] = checksum(values)
    path = store.begin(run) / "record.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize("change", [
    lambda r: r.update(novelty={"a": [1]}),
    lambda r: r["run"].update(novelty=1),
    lambda r: r["run"]["training"].update(novelty=1),
    lambda r: r["quality"].update(novelty=None),
    lambda r: r["efficiency"].update(watts=3.5, novelty="x"),
    lambda r: r.update(health=[{"name": "a", "severity": "info", "detail": "b", "novelty": 1}]),
])  # fmt: skip
def test_a_record_of_the_future_with_added_fields_is_read(store, run, change):
    of_another_version(store, run, change)
    record = store.read(run.run_id)
    assert record.quality.score == 0.75
    assert store.damaged_in_place() == []


@pytest.mark.parametrize("change", [
    lambda r: r.update(schema=2),
    lambda r: r.update(schema="1"),
    lambda r: r.update(status="postponed"),
    lambda r: r.update(health=[{"name": "a", "severity": "fatal", "detail": "b"}]),
    lambda r: r["quality"].pop("primary"),
    lambda r: r.update(quality="see elsewhere"),
])  # fmt: skip
def test_a_whole_record_that_is_not_understood_names_both_versions_and_stays(store, run, change):
    path = of_another_version(store, run, change)
    before = listing(store)
    for look in (store.read, store.is_done):
        with pytest.raises(StoreError, match=rf"kdlora 9\.8 .*kdlora {re.escape(__version__)}"):
            look(run.run_id)
    assert store.damaged_in_place() == []
    assert store.set_damaged_aside(run.run_id) == []
    with pytest.raises(StoreError, match="nothing was changed"):
        store.finish(record_of(run))
    assert listing(store) == before
    assert path.exists()


def test_setting_aside_replaces_nothing_that_was_set_aside_before(store, run):
    folder = store.begin(run)
    (folder / "record.damaged-1.json").write_text("older")
    for number in range(2):
        (folder / "record.json").write_text(f"torn {number}")
        assert len(store.set_damaged_aside(run.run_id)) == 1
    assert [p.read_text() for p in store.damaged()] == ["torn 0", "older", "torn 1"]


def test_a_damaged_failure_is_set_aside_and_named(store, run):
    folder = store.begin(run)
    (folder / "failed.json").write_text('{"run_id": ')
    assert store.read_failure(run.run_id) is None
    store.set_damaged_aside(run.run_id)
    assert [p.name for p in store.damaged()] == ["failed.damaged-0.json"]
    assert not (folder / "failed.json").exists()


@pytest.mark.parametrize("edit", [
    lambda r: r["quality"]["splits"]["report"].update(accuracy=0.99),
    lambda r: r.update(run_id="another"),
    lambda r: r.update(extra=1),
    lambda r: r["run"].update(seed=7),
])  # fmt: skip
def test_an_edited_record_is_not_believed(store, run, edit):
    path = store.begin(run) / "record.json"
    store.finish(record_of(run))
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    assert store.read(run.run_id) is None
    assert store.damaged_in_place() == [path]
    assert len(store.set_damaged_aside(run.run_id)) == 1


def test_a_record_in_another_runs_folder_counts_for_nothing_there(store, run):
    """Whole and unchanged, but copied: what it says is true of the run that it names alone."""
    store.begin(run)
    store.finish(record_of(run))
    copied = store.folder("another-run") / "record.json"
    copied.parent.mkdir()
    shutil.copy(store.folder(run.run_id) / "record.json", copied)
    assert store.read("another-run") is None
    assert not store.is_done("another-run")
    assert store.damage("another-run") == [copied]
    assert store.is_done(run.run_id)


def test_nan_never_reaches_a_record(store, run):
    record = record_of(run)
    record.quality.splits["report"]["accuracy"] = float("nan")
    with pytest.raises(ValueError, match=r"."):
        write_json(store.begin(run) / "record.json", record.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("number", "text"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "choose another folder with --out")],
)
def test_a_failed_write_leaves_the_old_file_and_explains(tmp_path, monkeypatch, number, text):
    path = tmp_path / "r.json"
    write_json(path, {"a": 1})

    def fail(handle):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store_module.os, "fsync", fail)
    with pytest.raises(StoreError, match=text):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


def test_an_unusable_folder_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        store = Store(root)
        for look in (store.check, store.prepare):
            with pytest.raises(StoreError, match="a file of that name is in the way"):
                look()
        assert store.read("any") is None


def test_looking_at_a_folder_makes_nothing(tmp_path):
    Store(tmp_path / "new" / "study").check()
    assert not list(tmp_path.iterdir())


def test_a_run_is_finished_once_whoever_is_late(store, run):
    path = store.begin(run) / "record.json"
    store.finish(record_of(run))
    first = path.read_bytes()
    late = record_of(run).model_copy(update={"started_at": "later"})
    with pytest.raises(AlreadyDone):
        store.finish(late)
    assert path.read_bytes() == first
    path.write_bytes(first[:100])  # a damaged one is in nobody's way
    store.finish(late)
    assert store.read(run.run_id).started_at == "later"
    assert [p.read_bytes() for p in store.damaged()] == [first[:100]]


def test_without_links_a_record_is_still_written_once(store, run, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(store_module.os, "link", refuse)
    store.begin(run)
    store.finish(record_of(run))
    with pytest.raises(AlreadyDone):
        store.finish(record_of(run))
    assert store.is_done(run.run_id)
    assert not [p for p in store.folder(run.run_id).iterdir() if p.suffix == ".tmp"]


def test_a_record_written_anew_while_a_damaged_one_is_set_aside_stays(store, run, monkeypatch):
    path = store.begin(run) / "record.json"
    store.finish(record_of(run))
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    move = os.replace

    def slowly(source, target):
        path.write_bytes(whole)  # another process was faster
        monkeypatch.setattr(store_module.os, "replace", move)
        move(source, target)

    monkeypatch.setattr(store_module.os, "replace", slowly)
    assert store.set_damaged_aside(run.run_id) == []
    assert store.read(run.run_id).quality.score == 0.75
    assert path.read_bytes() == whole


def test_a_retired_run_keeps_everything_aside_and_is_not_done(store, run):
    folder = store.begin(run)
    (folder / "model").mkdir()
    (folder / "lease-000003").write_text("held")
    store.finish(record_of(run))
    retired = store.retire(run.run_id)
    assert not store.is_done(run.run_id)
    assert sorted(p.name for p in retired.iterdir()) == ["model", "record.json"]
    assert (folder / "lease-000003").is_file()
    assert store.retire(run.run_id) is None
    store.finish(record_of(run))
    assert store.retire(run.run_id).name == "retired-1"
    retired.rename(folder / "retired-2")  # a gap is filled, and nothing is written over
    store.finish(record_of(run))
    assert store.retire(run.run_id).name == "retired-0"


def test_who_sums_a_study_up_does_so_alone(store):
    with store.closing() as first:
        assert leases.acquire(store.root / "closing") is None
    with store.closing() as second:
        assert second.generation > first.generation


def test_a_record_from_before_a_field_existed_is_still_believed(store, run):
    """Its checksum is over what was written, which is less than what is known today."""
    path = store.begin(run) / "record.json"
    store.finish(record_of(run))
    values = json.loads(path.read_text())
    del values["facts"]["adapter_rank"]
    del values["run"]["label"]
    values["checksum"] = checksum(values)
    path.write_text(json.dumps(values))
    assert store.read(run.run_id).facts.adapter_rank is None
    assert store.damaged() == []
    values["run"]["seed"] = 7
    path.write_text(json.dumps(values))
    assert store.read(run.run_id) is None
