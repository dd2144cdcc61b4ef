"""Every study in the documents is valid, plans, and means what the text beside it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kdlora.models.adapters import OPTIONS, check_options
from kdlora.models.counting import adapter_parameters
from kdlora.spec.adapter import Adapter
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from kdlora.spec.run import adapter_of
from kdlora.vocabulary.arm import PEFT_VARIANTS, labelled

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT = (DOCS / "adaptations.md").read_text(encoding="utf-8")
STUDIES = {
    values["name"]: values
    for values in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.DOTALL))
}


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_plans_with_options_that_exist(name: str) -> None:
    plan = make_plan(make_study(STUDIES[name]))
    assert any(run.distillation == "kd" for run in plan.runs)
    for run in plan.runs:
        if (adapter := adapter_of(run)) is not None:
            check_options(run.adaptation, adapter)


def test_ablations_share_runs_as_the_text_says() -> None:
    plan = make_plan(make_study(STUDIES["which-settings"]))
    cells = {labelled(cell.arm, cell.label): cell.run_id for cell in plan.cells}
    assert cells["student/kd-lora[temperature=2]"] == cells["student/kd-lora"]
    assert cells["student/kd-lora[temperature=4 kd_weight=0.5]"] == cells[
        "student/kd-lora[temperature=4]"
    ]  # fmt: skip
    assert cells["student/kd-lora[best]"] not in {cells["student/kd-lora"], cells["student/lora"]}


def test_the_layers_of_the_examples() -> None:
    plan = make_plan(make_study(STUDIES["fewer-layers"]))
    titles = {run.encoder.title for run in plan.runs if run.role == "student" and run.encoder}
    assert titles == {"minilm-l6[0,2,4]", "mpnet-base[10,11]"}


def test_the_table_of_variants_is_whole() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| (.*) \|$", TEXT, flags=re.MULTILINE))
    assert set(rows) == set(PEFT_VARIANTS)
    assert OPTIONS["rslora"] == OPTIONS["lora"]
    for variant, cell in rows.items():
        words = {"lora"} if cell == "as `lora`" else set(re.findall(r"`(\w+)`", cell))
        assert words == {"lora"} or set(OPTIONS[variant]) <= words, variant


def test_rank_is_no_budget() -> None:
    lora, mrlora, adalora = (
        adapter_parameters(variant, Adapter(rank=8), 768, 768)
        for variant in ("lora", "mrlora", "adalora")
    )
    assert round(mrlora / lora, 1) == 1.9
    assert round(adalora / lora, 1) == 1.5
    assert "1.9 times and AdaLoRA 1.5 times" in TEXT
