"""The reference page of the study file is what the models say."""

from __future__ import annotations

from pathlib import Path

from kdlora.spec.reference import reference_page
from kdlora.spec.study import Study

PAGE = Path(__file__).resolve().parents[2] / "docs" / "study-file.md"


def test_the_committed_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == reference_page(), (
        "python -m kdlora.spec.reference > docs/study-file.md"
    )


def test_every_key_has_a_type_and_a_sentence():
    rows = [line for line in reference_page().splitlines() if line.startswith("| `")]
    for row in rows:
        _, key, kind, _, meaning, _ = row.replace("\\|", "").split("|")
        assert kind.strip(), key
        assert len(meaning.split()) >= 2, key
    keys = {row.split("`")[1] for row in rows}
    assert keys >= set(Study.model_fields) - {"base_dir"}


def test_every_section_that_a_key_names_stands_on_the_page():
    page = reference_page()
    titles = {line[3:].lower() for line in page.splitlines() if line.startswith("## ")}
    named = {part.partition(")")[0] for part in page.split("](#")[1:]}
    assert named <= titles
