"""`kdlora report --watch`: written again whenever a run ends, until none is missing."""

from __future__ import annotations

import pytest

from kdlora import api
from tests.harness.studies import blank, make_frame


def test_watching_ends_with_the_last_run(monkeypatch, tmp_path):
    whole = make_frame()
    half = blank(whole, {"arm": "student/kd-lora"}, "missing")
    looks = iter([half, half, half, whole, whole])  # two loads a look that writes, one else
    monkeypatch.setattr("kdlora.records.frame.load_frame", lambda root: next(looks))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("kdlora.report.stored_outputs.read_bins", lambda frame, root: {})
    told = []

    def tell(files, done, planned):
        told.append((done, planned, 'http-equiv="refresh" content="7"' in files.html.read_text()))

    files = api.watch_report(tmp_path, every_s=7, on_written=tell)
    runs = whole["run_id"].nunique()
    assert told == [(runs - 2, runs, True), (runs, runs, False)]
    assert files.html.is_file()
    assert next(looks, None) is None


def test_a_study_that_is_not_there_is_said(tmp_path):
    from kdlora.errors import StoreError

    with pytest.raises(StoreError, match="no study"):
        api.watch_report(tmp_path / "none")
