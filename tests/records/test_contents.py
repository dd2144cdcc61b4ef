from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from kdlora.errors import StoreError
from kdlora.models.saved import load_trained
from kdlora.records.contents import (
    CHECKSUMS,
    read_history,
    read_sealed,
    require_whole_model,
    sealed,
)
from kdlora.records.frame import load_frame, load_histories, read_plan
from kdlora.records.halving import Rung, read_rung, write_rung
from kdlora.records.predictions import (
    RunOutputs,
    SplitOutputs,
    read_outputs,
    read_predictions,
    write_predictions,
)
from kdlora.records.record import checksum
from tests.harness.stored_studies import same_on_both, store_study

KINDS = ("predictions.parquet", "history.jsonl", "model/adapter_model.safetensors")


@pytest.fixture
def study(tmp_path):
    """A finished study whose runs keep predictions, a learning curve and weights."""
    store = store_study(tmp_path / "study", same_on_both(lambda run: 0.5), arms=["teacher/fft"])
    for folder in (store.root / "runs").iterdir():
        record = store.read(folder.name)
        ids, labels = np.array([f"{i:016x}" for i in range(8)]), np.arange(8) % 2
        part = SplitOutputs(ids, labels, np.eye(2)[labels])
        write_predictions(folder, {"selection": part, "report": part})
        (folder / "history.jsonl").write_text('{"step": 1, "epoch": 1, "selection": {"a": 0.5}}\n')
        (folder / "model" / "adapter_model.safetensors").write_bytes(bytes(range(256)))
        (folder / "record.json").unlink()
        store.finish(record)
    return store


def flip(path, *, at=0.5, bit=3):
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1 << bit
    stamp = path.stat().st_mtime_ns
    path.write_bytes(content)
    os.utime(path, ns=(stamp, stamp))  # as a disk does it: the time tells nothing


def only_run(store):
    (folder,) = (store.root / "runs").iterdir()
    return folder.name


def test_a_finished_run_names_all_that_lies_beside_it(study):
    record = study.read(only_run(study))
    assert sorted(record.files) == sorted(KINDS)
    assert study.is_done(record.run_id)
    assert study.damaged_in_place() == []


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.999])
def test_one_flipped_bit_beside_a_record_undoes_its_run_and_nothing_is_lost(study, name, at):
    run_id = only_run(study)
    folder = study.folder(run_id)
    flip(folder / name, at=at)
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert not study.is_done(run_id)
    with study.lease(run_id) as lease:
        assert lease is not None
        assert study.read(run_id) is None
        assert not (folder / name).exists()
    aside = {p.read_bytes() for p in folder.rglob("*") if p.is_file() and ".damaged-0" in str(p)}
    assert aside == {before[folder / "record.json"], before[folder / name]}
    assert len(study.damaged()) == 2


@pytest.mark.parametrize("name", KINDS[:2])
def test_a_report_names_a_run_with_a_damaged_file_and_does_not_count_it(study, name):
    run_id = only_run(study)
    flip(study.folder(run_id) / name)
    (row,) = load_frame(study.root).to_dict("records")
    assert row["status"] == "missing"
    assert name in row["error"]
    assert study.damaged_in_place() == [study.folder(run_id) / name]
    if name == "history.jsonl":
        assert read_history(study.folder(run_id)) == []
        assert load_histories(study.root) == {}
    else:
        for read in (
            lambda: read_predictions(study.folder(run_id)),
            lambda: read_outputs(study.root, [run_id], "report"),
        ):
            with pytest.raises(StoreError, match=r"predictions\.parquet is damaged"):
                read()
        assert RunOutputs(study.root, "report").get(run_id) is None


def test_damaged_weights_are_not_loaded(study, tmp_path):
    folder = study.folder(only_run(study)) / "model"
    require_whole_model(folder)
    flip(folder / "adapter_model.safetensors")
    with pytest.raises(StoreError, match=r"adapter_model\.safetensors is damaged"):
        load_trained(folder)
    saved = shutil.copytree(folder, tmp_path / "student")
    require_whole_model(saved)  # of nobody knows what it was
    (saved / CHECKSUMS).write_text(json.dumps({"files": {"adapter_model.safetensors": "0" * 64}}))
    with pytest.raises(StoreError, match="is damaged"):
        load_trained(saved)


def test_what_was_written_before_there_were_hashes_is_read(study):
    run_id = only_run(study)
    record = study.read(run_id)
    values = record.model_copy(update={"files": {}}).sealed().model_dump(mode="json", by_alias=True)
    path = study.folder(run_id) / "record.json"
    path.write_text(json.dumps(values))
    flip(study.folder(run_id) / "history.jsonl", at=0.1)
    assert study.is_done(run_id)
    assert len(read_predictions(study.folder(run_id)).frame) == 16


def test_a_file_that_is_gone_is_not_damaged(study):
    run_id = only_run(study)
    shutil.rmtree(study.folder(run_id) / "model")  # people do so to save space
    assert study.is_done(run_id)


@pytest.mark.parametrize("name", ["../other/record.json", "/etc/hostname", "..", "a/../../b", ""])
def test_a_record_names_no_file_outside_of_its_run(study, name):
    record = study.read(only_run(study))
    values = record.sealed().model_dump(mode="json", by_alias=True) | {"files": {name: "0" * 64}}
    values["checksum"] = checksum(values)
    (study.root / "runs" / "other").mkdir()
    (study.root / "runs" / "other" / "record.json").write_text("{}")
    path = study.folder(record.run_id) / "record.json"
    path.write_text(json.dumps(values))
    with pytest.raises(StoreError, match="no path inside"):
        study.is_done(record.run_id)
    with study.lease(record.run_id):
        assert path.exists()
    assert read_history(path.parent)


def test_a_json_file_whose_checksum_does_not_fit_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(sealed({"score": 0.25, "by": {1: 2}})))
    assert read_sealed(path) == {"score": 0.25, "by": {"1": 2}}
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(ValueError, match="checksum does not fit"):
        read_sealed(path)
    path.write_text('{"score": 0.75}')
    assert read_sealed(path) == {"score": 0.75}


def test_a_score_at_a_rung_that_was_changed_is_no_score(study):
    run_id = "not-done"
    study.folder(run_id).mkdir()
    write_rung(study, run_id, Rung(epoch=1, step=4, metric="accuracy", direction=1, score=0.25))
    assert read_rung(study, run_id, 1).score == 0.25
    path = study.folder(run_id) / "rung-1.json"
    path.write_text(path.read_text().replace("0.25", "0.75"))
    assert read_rung(study, run_id, 1) is None


def test_a_changed_plan_is_named(study):
    path = study.root / "plan.json"
    path.write_text(path.read_text().replace('"seed": ', '"seed": 3', 1))
    with pytest.raises(StoreError, match=r"plan\.json: its checksum does not fit.*kdlora run"):
        read_plan(study.root)
