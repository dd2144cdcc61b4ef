"""The programs that are timed from the shell to the saved student; none is timed here."""

from __future__ import annotations

import pytest
from transformers import AutoModelForSequenceClassification, BertConfig

from benchmarks import cell, end_to_end, trainer_script
from kdlora.spec.check import read_study
from kdlora.spec.plan import make_plan

MACHINE = {
    "threads": 2, "instructions": ["avx2"], "precision": "fp32", "tcmalloc": True, "torch": "2",
    "transformers": "5",
}  # fmt: skip


def test_every_program_takes_its_turn_and_the_table_divides_round_by_round(tmp_path, monkeypatch):
    ran = []

    def seconds(arguments, theirs):
        ran.append(theirs)
        return (30.0 if theirs else 10.0) * (1 + (len(ran) > 3))  # the second round is slower

    monkeypatch.setattr(end_to_end, "_seconds", seconds)
    monkeypatch.setattr(end_to_end, "prepare", lambda folder, rows, held_out: None)
    monkeypatch.setattr(end_to_end, "machine", lambda: MACHINE)
    found = end_to_end.measure(tmp_path, rows=600, held_out=40, epochs=1, repeats=2)
    assert ran == [True, False, False] * 2  # tcmalloc is the script's alone
    table = end_to_end.as_markdown(found)
    assert "| `kdlora distil` | 4 | 15.0 | 10.0 - 20.0 | 3.8 | 3.00 x as long |" in table
    assert "large batches where nothing is trained, tcmalloc." in table


@pytest.mark.slow
def test_the_script_trains_what_kdlora_run_does(tmp_path, monkeypatch):
    """A teacher and a student that learns from it, on the rows that are left of training."""
    narrow = {"hidden_size": 48, "intermediate_size": 96}  # the layers are those that are timed
    monkeypatch.setattr(cell, "BertConfig", lambda **given: BertConfig(**given | narrow))
    cell.prepare(tmp_path, 60, 20)
    (tmp_path / "end.yaml").write_text(end_to_end._STUDY.format(epochs=1), encoding="utf-8")
    plan = make_plan(read_study(tmp_path / "end.yaml"))
    assert sorted(run.arm for run in plan.runs) == ["student/kd-lora", "teacher/fft"]
    trainer_script.main(tmp_path, 1, 20)
    for name, layers in (("teacher", 6), ("student", 3)):
        saved = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved" / name)
        assert saved.config.num_hidden_layers == layers
        assert not any("lora" in name for name, _ in saved.named_parameters())
