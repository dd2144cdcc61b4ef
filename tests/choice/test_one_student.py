"""One student, whoever names it: the first screen, the saved folder, `recommend`, its section."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.choice.constraints import DEFAULT
from kdlora.choice.exports import recommend_study
from kdlora.errors import InputError
from kdlora.evidence.gains import Facts, describe
from kdlora.evidence.students import bands, rank_students
from kdlora.records.frame import load_frame
from kdlora.records.store import Store
from kdlora.report import words as w
from kdlora.report.content import pair_answer, which_to_ship
from kdlora.ship.student import read_card, save_students
from tests.harness.choice_studies import row, study
from tests.harness.stored_studies import ERROR, store_study

STUDENTS = ("student/fft", "student/lora", "student/kd-lora", "student/kd-fft")


@st.composite
def studies(draw: st.DrawFn) -> dict[str, Any]:
    """Several tasks, pairs and seeds; scores that often tie, and runs that are flagged."""
    return {
        "arms": [
            "teacher/fft",
            *draw(st.lists(st.sampled_from(STUDENTS), min_size=1, unique=True)),
        ],
        "tasks": ["rte", "mrpc"][: draw(st.integers(1, 2))],
        "encoders": draw(st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=2)),
        "seeds": [1, 2][: draw(st.integers(1, 2))],
        "numbers": draw(st.integers(0, 2**32 - 1)),
        "flagged": draw(st.sampled_from([0.0, 0.3, 1.0])),
    }


def stored(root: Path, drawn: dict[str, Any]) -> Store:
    rng = np.random.default_rng(drawn["numbers"])
    return store_study(
        root,
        lambda run: (float(rng.choice([0.7, 0.75, 0.8])), float(rng.choice([0.6, 0.7, 0.8]))),
        flagged=lambda run: [ERROR] if run.role == "student" and rng.random() < drawn["flagged"]
        else [],
        efficiency=lambda run: {"latency_p95_ms": float(rng.choice([5.0, 5.2, 9.0]))},
        arms=drawn["arms"],
        tasks=drawn["tasks"],
        seeds=drawn["seeds"],
        pairs=[
            {"name": f"p{i}", "teacher": f"big{i}", "student": student}
            for i, student in enumerate(drawn["encoders"])
        ],
    )  # fmt: skip


def saved_nothing(folder: Path, **options: object) -> tuple[Any, Any]:
    """A model that is saved without a byte."""
    model = SimpleNamespace(save_pretrained=lambda place: None)
    return model, model


def best_mean(frame: pd.DataFrame, task: str) -> float:
    """The highest mean of selection scores over the sound runs of one student."""
    own = frame[(frame["task"] == task) & (frame["role"] == "student")]
    own = own[["error" not in found for found in own["flag_severities"]]]
    return float(own.groupby(["arm", "pair"])["selection_score"].mean().max())


@settings(max_examples=4, deadline=None)
@given(studies())
def test_all_that_name_a_student_name_the_same(drawn: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdlora.models.saved.load_trained", saved_nothing)
        store = stored(Path(folder) / "study", drawn)
        frame = load_frame(store.root)
        facts = describe(frame)
        saved = save_students(frame, store)
        text = said_first(facts)
        for task in drawn["tasks"]:
            cards = [card for _, card in saved if card.task == task]
            made = recommend_study(store.root, [("student", DEFAULT)], tasks=[task], draws=100)[0]
            first = facts.rankings[task].first
            if first is None:  # every run of every student is flagged
                assert cards == []
                assert made.choice is None
                assert "No student can be chosen" in text
                continue
            assert first.score == pytest.approx(best_mean(frame, task), abs=1e-12)
            assert made.choice is not None
            candidate = made.choice.candidate
            assert (candidate.arm, candidate.ship) == (first.arm, first.ship)
            assert (cards[0].arm, cards[0].run_id) == (first.arm, first.ship)
            assert set(candidate.run_ids) == set(first.run_ids)
            assert w.phrase(first.arm).lower() in text.lower()
            if len(drawn["encoders"]) == len(drawn["tasks"]) == 1:
                others = {a for a in drawn["arms"] if a.startswith("student")} - {first.arm}
                sentence = text.lower().split(":")[0]
                assert not any(w.phrase(arm).lower() in sentence for arm in others)
        for place, card in saved:
            kept = read_card(place)
            assert kept is not None
            assert kept.run_id == card.run_id


def said_first(facts: Facts) -> str:
    """What the first screen says of the student to ship."""
    found = pair_answer.to_ship(facts)
    return (found or pair_answer.sentences(facts)[0]).text


def test_the_order_of_rows_changes_no_choice() -> None:
    rows = [row(arm, score=0.8, seed=s) for arm in STUDENTS for s in (1, 2)]
    frame = study(*rows, row("teacher/fft", score=0.9))
    expected = [one.arm for one in rank_students(frame, "t").students]
    for seed in range(5):
        mixed = frame.sample(frac=1, random_state=seed)
        assert [one.arm for one in rank_students(mixed, "t").students] == expected
    assert expected[0] == "student/fft"


def test_equal_scores_are_decided_by_latency_then_by_size() -> None:
    slow = row("student/fft", score=0.8, latency_p95_ms=20.0, encoder="slow")
    large = row("student/lora", score=0.8, size_mb=90.0)
    small = row("student/kd-lora", score=0.8)
    found = rank_students(study(slow, large, small), "t").students
    assert [one.arm for one in found] == ["student/kd-lora", "student/lora", "student/fft"]
    assert bands([None, 1.0, float("nan")]).tolist() == [1, 0, 1]


def test_a_flagged_run_is_left_out_and_named() -> None:
    bad = row("student/fft", score=0.99, flag_severities=("error",), seed=2)
    frame = study(row("student/fft", score=0.7), bad, row("student/lora", score=0.8))
    found = rank_students(frame, "t")
    assert found.first is not None
    assert found.first.arm == "student/lora"
    assert found.left_out == {"student/fft": ("student-fft-2",)}
    teachers = [row("teacher/fft", score=0.9), row("teacher/fft", score=0.9, seed=2)]
    whole = study(*frame.to_dict("records"), *teachers)
    text = pair_answer.teacher_share(describe(whole), "p")
    assert text is None or "Left out of the choice" in text.text


def test_a_study_whose_models_are_all_flagged_says_so_in_one_sentence(tmp_path: Path) -> None:
    store = store_study(tmp_path, lambda run: (0.5, 0.5), flagged=lambda run: [ERROR])
    with pytest.raises(InputError, match="every trained model carries an error flag") as caught:
        recommend_study(store.root, [("student", DEFAULT)], draws=100)
    assert len(caught.value.problems) == 1
    assert save_students(load_frame(store.root), store) == []
    assert "No student can be chosen" in said_first(describe(load_frame(store.root)))


def test_the_first_screen_says_where_a_form_of_the_teacher_is_better() -> None:
    def made(teacher_ms: float) -> list[str]:
        frame = study(
            row("teacher/fft", score=0.9, latency_p95_ms=teacher_ms, latency_p50_ms=teacher_ms),
            row("student/kd-lora", score=0.85),
        )
        return [f.text for f in which_to_ship.teacher_instead(which_to_ship.gather(frame, {}, []))]

    (text,) = made(12.0)
    assert "the fully fine-tuned teacher" in text
    assert "server" in text
    assert "student" not in text.split(":")[1].replace("every student", "")
