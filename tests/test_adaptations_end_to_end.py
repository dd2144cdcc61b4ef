"""From the study file to the report: budgets, methods of peft, varied arms, made students."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from transformers import AutoModelForSequenceClassification

import kdlora
from kdlora.errors import InputError
from kdlora.records.store import Store
from kdlora.records.tidy import tidy
from kdlora.spec.adapter import Adapter
from kdlora.spec.check import read_study
from kdlora.spec.plan import make_plan
from kdlora.vocabulary.task import TASKS
from tests.harness.commands import in_process
from tests.harness.counting import expected_trainable
from tests.harness.finished import share_costs

BUDGET = 5_000
SECTIONS = {
    "arms": ["teacher/fft", "student/lora", "student/kd-lora", "student/kd-peft"],
    "adapter": {"budget": BUDGET, "method": "loha", "config": {"r": 2, "alpha": 4}},
    "variations": {
        "ranked": {"arm": "student/kd-lora", "adapter": {"rank": 3}},
        "norms": {"arm": "student/kd-peft", "adapter": {"method": "LN_TUNING"}},
    },
    "ablations": [
        {"arm": "student/kd-lora", "vary": {"distillation.temperature": [2.0, 8.0]}},
    ],
    "baselines": False,
}


def values(corner, **changes) -> dict:
    """A study file's content for the corner, whose student is a layer of its teacher."""
    study = corner.study(seeds=[1], training={"epochs": 3, "batch_size": 16, "max_length": 32,
                                              "precision": "fp32", "lr": 5e-3})  # fmt: skip
    dumped = study.model_dump(mode="json") | SECTIONS
    dumped["data"] |= {"max_train": 320}
    dumped["pairs"] = [{"name": "cut", "teacher": corner.teacher,
                        "student": {"from": "teacher", "layers": [1]}}]  # fmt: skip
    return dumped | changes


@pytest.fixture(scope="module")
def done(corner, tmp_path_factory) -> tuple[Path, pd.DataFrame]:
    folder = tmp_path_factory.mktemp("adaptations")
    (folder / "study.yaml").write_text(yaml.safe_dump(values(corner), sort_keys=False))
    out = share_costs(corner, folder / "out")
    result = kdlora.run(folder / "study.yaml", out=out, workers=2, threads=1)
    assert set(result.status.values()) == {"done"}, result.frame["error"].tolist()
    return folder, result.frame


def test_labelled_arms_are_rows_of_their_own(done) -> None:
    frame = done[1].set_index("arm")
    assert list(frame.index) == [
        "teacher/fft", "student/lora", "student/kd-lora", "student/kd-peft",
        "student/kd-lora[ranked]", "student/kd-peft[norms]", "student/kd-lora[temperature=2]",
        "student/kd-lora[temperature=8]",
    ]  # fmt: skip
    assert frame.loc["student/kd-lora[ranked]", "base_arm"] == "student/kd-lora"
    same = frame["run_id"]
    assert same["student/kd-lora[temperature=2]"] == same["student/kd-lora"]
    assert same.nunique() == 7
    assert frame.loc["student/kd-lora[temperature=8]", "temperature"] == 8
    assert frame.loc["student/kd-lora", "temperature"] == 2


def test_a_budget_is_kept_and_its_rank_recorded(done) -> None:
    folder, frame = done
    row = frame.set_index("arm").loc["student/kd-lora"]
    assert row["budget"] == BUDGET
    config = AutoModelForSequenceClassification.from_pretrained(folder / "out" / "student").config
    one = _adapter_size(config, 1)
    assert row["rank"] == BUDGET // one  # LoRA's size is proportional to its rank
    assert row["adapter_params"] == one * row["rank"] <= BUDGET
    assert row["alpha"] == 2 * row["rank"]
    record = Store(folder / "out").read(row["run_id"])
    assert record.facts.adapter_rank == row["rank"]
    assert record.run.adapter.rank is None
    ranked = frame.set_index("arm").loc["student/kd-lora[ranked]"]
    assert ranked["rank"] == 3
    assert pd.isna(ranked["budget"])


def _adapter_size(config, rank: int) -> int:
    """By difference: what beside the adapter trains is the same at either rank."""
    sizes = [expected_trainable(config, "lora", Adapter(rank=r), TASKS["sst2"]) for r in (1, 2)]
    return (sizes[1] - sizes[0]) * rank


def test_other_methods_say_what_they_are(done) -> None:
    frame = done[1].set_index("arm")
    assert frame.loc["student/kd-peft", "method"] == "LOHA"
    assert frame.loc["student/kd-peft", "rank"] == 2
    assert frame.loc["student/kd-peft[norms]", "method"] == "LN_TUNING"
    assert frame.loc["student/kd-peft[norms]", "adapter_params"] == 3 * 2 * 32  # weight and bias


def test_the_student_is_a_layer_of_its_teacher(done) -> None:
    folder, frame = done
    rows = frame.set_index("arm")
    assert rows.loc["student/kd-lora", "student"].endswith("teacher[1]")
    assert rows.loc["student/kd-lora", "encoder"].endswith("teacher[1]")
    assert rows.loc["student/kd-lora", "speedup_latency"] > 0
    saved = AutoModelForSequenceClassification.from_pretrained(folder / "out" / "student")
    assert saved.config.num_hidden_layers == 1
    answers = kdlora.predict(folder / "out" / "student", ["a good film"])
    assert answers[0]["label"] in ("pos", "neg")
    run_id = rows.loc["student/kd-lora", "run_id"]
    assert kdlora.predict(folder / "out" / "runs" / run_id, ["a good film"])


def test_the_report_names_every_arm(done) -> None:
    folder, frame = done
    page = (folder / "out" / "report.md").read_text()
    for name in ("KD-LoRA, ranked", "KD-LoRA, temperature 8", "KD-PEFT, norms"):
        assert f"Student, {name}" in page
    arms = list(dict.fromkeys(tidy(frame)["arm"]))
    assert arms.index("student/kd-lora[ranked]") > arms.index("student/kd-lora")
    assert arms[0] == "teacher/fft"
    compared = in_process("compare", folder / "out", "--a", "student/kd-lora[ranked]",
                      "--b", "student/kd-lora", cwd=folder)  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    assert "[ranked]" in compared.stdout.replace("\n", "")


def test_the_plan_shows_budgets_and_shared_runs(done) -> None:
    folder, _ = done
    shown = in_process("plan", folder / "study.yaml", "--out", folder / "out", cwd=folder).stdout
    assert "adapter budget: 5,000 trainable parameters" in shown
    assert "student/kd-lora[temperature=2]" in shown
    assert "kd-lora[ranked]" in shown.split("adapter budget")[0]  # in the table itself
    rows = json.loads(in_process("plan", folder / "study.yaml", "--json", cwd=folder).stdout)[
        "runs"
    ]
    assert {row["budget"] for row in rows if row["arm"] == "student/lora"} == {BUDGET}


def test_the_kept_study_means_the_same_runs(done, tmp_path: Path) -> None:
    folder, frame = done
    (tmp_path / "moved.yaml").write_text((folder / "out" / "study.yaml").read_text())
    plan = make_plan(read_study(tmp_path / "moved.yaml"))
    assert {run.run_id for run in plan.runs} == set(frame["run_id"])


def test_every_problem_is_told_before_anything_is_trained(corner, tmp_path: Path) -> None:
    broken = values(
        corner,
        pairs=[{"name": "cut", "teacher": corner.teacher,
                "student": {"from": "teacher", "layers": [0, 5]}}],
        adapter={"budget": 10, "method": "LOHAA"},
        variations={"typo": {"arm": "student/kd-lora",
                             "adapter": {"options": {"init_weights": 1}}}},
    )  # fmt: skip
    with pytest.raises(InputError) as caught:
        kdlora.run(broken, out=tmp_path / "out")
    text = str(caught.value)
    assert "no layer 5: it has 2, numbered 0 to 1" in text
    assert "Did you mean 'LOHA'" in text
    assert "lora has no option 'init_weights'. Did you mean 'init_lora_weights'" in text
    assert not (tmp_path / "out").exists()
    broken["pairs"][0]["student"]["layers"] = [0]
    del broken["variations"]
    with pytest.raises(InputError, match="10 trainable parameters are too few for lora on 6"):
        kdlora.run(broken, out=tmp_path / "out")
