"""The pages on presets and early decisions: their studies plan, their numbers are true."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from kdlora.api import as_study
from kdlora.records.fairness import FIELDS
from kdlora.spec.check import make_study
from kdlora.spec.halving import races
from kdlora.spec.plan import make_plan
from kdlora.spec.presets import preset_names

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_table_of_presets_is_whole_and_counts_right():
    text = (DOCS / "presets.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| ([\d,]*) ?\|$", text, flags=re.MULTILINE))
    assert sorted(rows) == preset_names()
    for name, count in rows.items():
        if count:
            assert len(make_plan(as_study(name)).runs) == int(count.replace(",", "")), name


def test_the_race_goes_as_the_page_says():
    text = (DOCS / "halving.md").read_text(encoding="utf-8")
    study = make_study(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, flags=re.DOTALL)[1]))
    plan = make_plan(study)
    found = races(plan.halving, [vars(cell) for cell in plan.cells])
    assert [len(race.candidates) for race in found] == [6, 6]
    first = found[0].survivors(6)
    assert (first, found[0].survivors(first)) == (3, 2)


def test_every_condition_is_named():
    text = (DOCS / "fairness.md").read_text(encoding="utf-8").lower()
    for name in FIELDS.values():
        assert name in text
