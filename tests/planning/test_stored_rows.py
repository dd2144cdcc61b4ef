"""What is kept of a task's rows, and which columns of a file sort them into slices."""

from __future__ import annotations

import pytest

from kdlora.data.tasks import load_task
from kdlora.planning.stored_rows import rows_of, script_of
from kdlora.spec.check import make_study
from kdlora.spec.plan import make_plan
from tests.harness.moods import sentences, write_csv


@pytest.fixture
def rows(tmp_path, corner):
    def made(*, texts: bool = True, **columns):
        words, moods = sentences(120, 5)
        own = {name: make(120) for name, make in columns.items()}
        file = write_csv(tmp_path / "rows.csv", review=words, mood=moods, **own)
        task = {"name": "moods", "train": str(file), "text": "review", "label": "mood"}
        pair = {"teacher": corner.teacher, "student": corner.student}
        plan = make_plan(make_study({"name": "s", "tasks": [task], "pairs": [pair]}))
        data = load_task(plan.runs[0].task, plan.runs[0].data)
        return data, rows_of(data, plan.runs, texts=texts, rules=lambda encoder: None), words

    return made


def test_every_row_of_every_split_has_its_text_and_number(rows):
    data, kept, words = rows()
    assert all(map(len, data.splits().values()))
    assert len(data.splits()) == 3
    for split, part in data.splits().items():
        found = kept.at(split, part.ids.tolist())
        numbers = found["number"].astype(int)
        assert [kept.text(row) for _, row in found.iterrows()] == [words[n - 1] for n in numbers]


def test_columns_of_few_values_and_of_numbers_are_kept_and_no_others(rows):
    _, kept, _ = rows(
        channel=lambda n: ["web" if i % 3 else "app" for i in range(n)],
        price=lambda n: [i / 2 for i in range(n)],
        place=lambda n: [f"row {i} said by somebody" for i in range(n)],
        number=lambda n: list(range(n)),  # an id
        same=lambda n: ["x"] * n,
        note=lambda n: ["" if i % 2 else "yes" for i in range(n)],
    )
    assert set(kept.columns) == {"channel", "price"}
    assert kept.frame[kept.column("price")].dtype.kind == "f"


def test_a_study_that_keeps_no_texts_has_none(rows):
    _, kept, words = rows(texts=False)
    assert kept.texts == ()
    assert not kept.frame.isin(words).any().any()


@pytest.mark.parametrize(
    ("text", "script"),
    [("plain words", "Latin"), ("привет мир", "Cyrillic"), ("你好世界", "Cjk"), ("12 + 3", "none")],
)
def test_a_script_is_that_of_most_letters(text, script):
    assert script_of([text]) == script
