"""A report rests its choice on the predictions of all runs, however many there are."""

from __future__ import annotations

import pandas as pd

from kdlora.records.predictions import write_predictions
from kdlora.report.stored_outputs import read_stored_outputs
from tests.harness.choice_studies import outputs_of, row


def test_the_predictions_of_every_encoder_are_read(tmp_path):
    """As `kdlora recommend` reads them: a choice is no less sure in a report of many runs."""
    students = [row("student/lora", score=0.8, seed=seed) for seed in range(301)]
    failed = row("student/lora", score=0.8, seed=301) | {"status": "failed"}
    (outputs,) = outputs_of({"any": 0.8}, n=4).values()
    for one in (*students, failed):
        folder = tmp_path / "runs" / one["run_id"]
        folder.mkdir(parents=True)
        write_predictions(folder, {"selection": outputs})
    found = read_stored_outputs(pd.DataFrame([*students, failed]), tmp_path)
    assert list(found.selection) == [one["run_id"] for one in students]
