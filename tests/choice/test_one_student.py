"""One student, whoever names it: the first screen, the saved folder, `recommend`, its section."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kdlora
from kdlora.choice.candidates import draw_candidates, gather_candidates, run_scores
from kdlora.choice.constraints import DEFAULT, asked_for
from kdlora.choice.exports import recommend_study
from kdlora.choice.recommend import DRAWS, recommend, recommend_profiles
from kdlora.choice.recommendation import JudgedForm
from kdlora.cli.recommend import recommend as command
from kdlora.errors import InputError
from kdlora.evidence.gains import Facts, describe
from kdlora.evidence.students import bands, rank_students
from kdlora.evidence.study import gather_report
from kdlora.records.frame import load_frame
from kdlora.records.store import Store
from kdlora.report import words as w
from kdlora.report.content import answer, pair_answer, which_to_ship
from kdlora.ship.card import CALIBRATION, CARD, read_card
from kdlora.ship.named_model import saved_students
from kdlora.ship.student import save_students, students_to_save, unsaved_students
from tests.harness.choice_studies import row, study
from tests.harness.stored_studies import ERROR, store_study

STUDENTS = ("student/fft", "student/lora", "student/kd-lora", "student/kd-fft")
LATENCIES = (9.9, 10.0, 10.15, 20.0)  # two within 2 % of each other, and what splits them


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Tasks, pairs and seeds; scores and costs that often tie, and runs that are flagged.

    Students without a teacher stand in every pair of their encoder, as in a study's plan.
    """
    arms = ["teacher/fft", *draw(st.lists(st.sampled_from(STUDENTS), min_size=1, unique=True))]
    pairs = st.sampled_from([("big", "a"), ("big", "b"), ("huge", "a")])
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    flagged = draw(st.sampled_from([0.0, 0.3, 1.0]))
    made: dict[str, dict[str, Any]] = {}
    tasks = ["rte", "mrpc"][: draw(st.integers(1, 2))]
    seeds = [1, 2][: draw(st.integers(1, 2))]
    rows = []
    for teacher, small in draw(st.lists(pairs, min_size=1, max_size=2, unique=True)):
        for arm, task, seed in product(arms, tasks, seeds):
            role, encoder = ("teacher", teacher) if arm == "teacher/fft" else ("student", small)
            taught_by = teacher if arm.startswith("student/kd-") else ""
            run_id = "-".join([arm.replace("/", "-"), encoder, taught_by, task, str(seed)])
            bad = role == "student" and rng.random() < flagged
            new = row(
                arm, score=rng.choice([0.6, 0.7, 0.8]), task=task, seed=seed, run_id=run_id,
                selection_score=rng.choice([0.7, 0.8]), encoder=encoder,
                latency_p95_ms=rng.choice(LATENCIES), size_mb=rng.choice([60.0, 80.0]),
                flags=(ERROR.name,) * bad, flag_severities=(ERROR.severity,) * bad,
            )  # fmt: skip
            own = {"pair": f"{teacher}-{small}", "teacher": teacher, "student": small}
            rows.append(made.setdefault(run_id, new) | own)
    return study(*rows)


def recommended(frame: pd.DataFrame, task: str) -> JudgedForm | None:
    """What `recommend` chooses by default."""
    pool, scores = gather_candidates(frame, task), run_scores(frame)
    drawn = draw_candidates(pool, frame, {}, rng=np.random.default_rng(0), draws=100)
    return recommend(pool, DEFAULT, drawn, run_scores=scores).choice


def saved_nothing(folder: Path, **options: object) -> tuple[Any, Any]:
    """A model that is saved without a byte."""
    model = SimpleNamespace(save_pretrained=lambda place: None, model_max_length=128)
    return model, model


def best_mean(frame: pd.DataFrame, task: str) -> float:
    """The highest mean of selection scores over the sound runs of one student."""
    own = frame[(frame["task"] == task) & (frame["role"] == "student")]
    own = own[["error" not in found for found in own["flag_severities"]]]
    return float(own.groupby(["arm", "pair"])["selection_score"].mean().max())


@settings(max_examples=12, deadline=None)
@given(frames())
def test_all_that_name_a_student_name_the_same(frame: pd.DataFrame) -> None:
    facts = describe(frame)
    text = said_first(facts)
    saved = students_to_save(frame)
    assert set(facts.rankings) == set(frame["task"])
    for task, ranking in facts.rankings.items():
        own = [found for name, found in saved.items() if name in ("", *named_for(frame, task))]
        choice, first = recommended(frame, task), ranking.first
        if first is None:  # every run of every student is flagged
            assert own == []
            assert choice is None
            assert "No student can be chosen" in text
            continue
        assert first.score == pytest.approx(best_mean(frame, task), abs=1e-12)
        assert own[0][0] == first
        assert choice is not None
        candidate = choice.candidate
        assert (candidate.arm, candidate.ship) == (first.arm, first.ship)
        assert set(candidate.run_ids) == set(first.run_ids)
        assert w.phrase(first.arm).lower() in text.lower()
        if len(facts.rankings) == frame["pair"].nunique() == 1:
            others = set(frame.loc[frame["role"] == "student", "arm"]) - {first.arm}
            sentence = text.lower().split(":")[0]
            assert not any(w.phrase(arm).lower() in sentence for arm in others)


def named_for(frame: pd.DataFrame, task: str) -> list[str]:
    """Folders of a task's students in a study of several tasks or pairs."""
    return [f"{task}--{pair}" for pair in frame["pair"].unique()]


@pytest.mark.parametrize("teacher_ms", [9.9, 50.0])
def test_an_exact_tie_goes_to_the_same_student_everywhere(teacher_ms: float) -> None:
    """Latencies within 2 % are equal, whatever a teacher or another form takes; then size decides.

    From 9.9 ms on, 10.0 is within 2 % and 10.15 is not; among the students alone both are equal.
    """
    frame = study(
        row("teacher/fft", score=0.9, latency_p95_ms=teacher_ms, latency_p50_ms=teacher_ms),
        row("student/fft", score=0.8, encoder="quick", latency_p95_ms=10.0, size_mb=80.0),
        row("student/lora", score=0.8, encoder="small", latency_p95_ms=10.15, size_mb=60.0),
    )
    choice = recommended(frame, "t")
    assert choice is not None
    first = [found[0].arm for found in students_to_save(frame).values()]
    assert [choice.candidate.arm, *first] == ["student/lora", "student/lora"]
    assert w.phrase("student/lora").lower() in said_first(describe(frame)).lower()


def test_the_headlines_of_several_pairs_name_the_students_that_rank_first() -> None:
    """The report split prefers another student everywhere, and chooses none."""
    rows = [
        row(
            arm, score=report + seed / 100, selection_score=selection, task=task, seed=seed,
            pair=pair, encoder=f"{arm}-{pair}", run_id=f"{arm}-{pair}-{task}-{seed}",
        )
        for pair in ("p", "q")
        for task, seed in product(("t0", "t1"), (1, 2))
        for arm, report, selection in (
            ("teacher/fft", 0.9, 0.9), ("student/fft", 0.6, 0.8), ("student/lora", 0.7, 0.7),
            ("student/kd-lora", 0.8, 0.6),
        )
    ]  # fmt: skip
    facts = describe(study(*rows))
    stats = gather_report(facts.frame)
    assert stats is not None
    (text,) = [f.text for f in answer.headlines(facts, stats) if f.topic == "For a small model"]
    firsts = {one.first.arm for one in facts.rankings.values() if one.first is not None}
    assert {arm for arm in STUDENTS if f"{w.phrase(arm)} " in text} == firsts == {"student/fft"}
    assert "first on the selection split" in text
    (average,) = [one for one in stats.aggregates if one.arm == "student/fft"]
    assert w.points_text(average.mean) in text


def test_the_candidates_stand_by_score_then_cost_whatever_the_profiles() -> None:
    """Forms of one model score the same: the first is its cheapest, also of the student."""
    frame = study(
        row("teacher/fft", score=0.9), row("student/fft", score=0.8), row("student/lora", score=0.8)
    )
    made = recommend_profiles(frame, {}, [])
    names = [one.profile for one in made.found]
    tables = []
    for name in names:
        first = sorted(made.found, key=lambda one: one.profile != name)
        rows = which_to_ship.candidates(first).rows
        tables.append([cells[0].value for cells in rows])
        score, latency = ([cells[i].value for cells in rows] for i in (2, 7))
        assert list(zip(score, latency, strict=True)) == sorted(
            zip(score, latency, strict=True), key=lambda found: (-found[0], found[1])
        )
    assert all(table == tables[0] for table in tables)
    assert tables[0][0] == "teacher/fft as ONNX INT8"
    assert which_to_ship.candidates(made.found).columns[0].label == "Candidate"


BY_SEED = ((0.70, 0.73, 0.71), (0.72, 0.70, 0.725))  # two arms that no test tells apart


def test_the_report_and_the_command_are_as_sure_of_a_choice(tmp_path: Path) -> None:
    """The same draws: a probability of one is that of the other, to the last digit."""
    store = store_study(
        tmp_path, lambda run: (BY_SEED[run.adaptation == "lora"][run.seed - 1], 0.7),
        arms=["teacher/fft", *STUDENTS[:2]], seeds=[1, 2, 3],
    )  # fmt: skip
    asked = recommend_study(store.root, asked_for(None)).found
    shown = recommend_profiles(load_frame(store.root), {}, []).found
    assert [one.probability for one in asked] == [one.probability for one in shown]
    assert any(one.probability not in (None, 0.0, 1.0) for one in asked)
    for door in (kdlora.recommend, command):
        assert inspect.signature(door).parameters["draws"].default == DRAWS


@pytest.mark.parametrize(("latency_ms", "told"), [(8.05, True), (20.0, False)])
def test_what_costs_alike_is_not_told_apart_and_what_costs_more_is(
    latency_ms: float, told: bool
) -> None:
    """Where a cost is preferred: alike as in the choice itself, not equal to the last bit."""
    frame = study(
        *(
            row(arm, score=score, seed=seed, encoder=arm, latency_p95_ms=ms, latency_p50_ms=ms)
            for arm, scores, ms in (
                ("teacher/fft", BY_SEED[0], 40.0), ("student/fft", BY_SEED[0], 8.0),
                ("student/lora", BY_SEED[1], latency_ms),
            )
            for seed, score in enumerate(scores, start=1)
        )
    )  # fmt: skip
    (server,) = [one for one in recommend_profiles(frame, {}, []).found if one.profile == "server"]
    tied = [one.candidate.arm for one in server.not_told_apart]
    assert server.choice is not None
    others = {"student/fft", "student/lora"} - {server.choice.candidate.arm}
    assert (set(tied) == others) is told


def test_the_student_that_is_named_is_saved_and_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdlora.models.saved.load_trained", saved_nothing)
    monkeypatch.setattr("kdlora.ship.student.call_in_worker", lambda call, *told: call(*told))
    store = store_study(
        tmp_path,
        lambda run: (0.8, 0.7 if run.seed == 1 else 0.6),
        arms=["teacher/fft", *STUDENTS[:2]],
        tasks=["rte", "mrpc"],
        seeds=[1, 2],
    )
    frame = load_frame(store.root)
    wanted = students_to_save(frame)
    saved = save_students(frame, store)
    made = recommend_study(store.root, [("student", DEFAULT)], draws=100)
    choices = [one.choice.candidate.ship for one in made.found if one.choice is not None]
    assert [card.run_id for _, card in saved] == [found[0].ship for found in wanted.values()]
    assert [card.run_id for _, card in saved] == choices
    assert [read_card(folder) for folder, _ in saved] == [card for _, card in saved]
    assert made.lacking == {}


def test_what_a_user_put_beside_a_student_outlives_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdlora.models.saved.load_trained", saved_nothing)
    monkeypatch.setattr("kdlora.ship.student.call_in_worker", lambda call, *told: call(*told))
    told: list[str] = []

    def save(best: str) -> Path:
        store = store_study(
            tmp_path / str(len(list(tmp_path.iterdir()))),
            lambda run: (0.9 if run.arm == best else 0.6, 0.5),
            arms=["teacher/fft", "student/lora", "student/kd-lora"],
        )
        whole = Store(tmp_path / "study")
        shutil.copytree(store.root, whole.root, dirs_exist_ok=True)
        ((folder, _),) = save_students(load_frame(whole.root), whole, told.append)
        return folder

    folder = save("student/lora")
    (folder / CALIBRATION).write_text("{}")  # what kdlora itself writes later
    before = (folder / CARD).read_text()
    assert save("student/kd-lora") == folder
    assert (folder / CARD).read_text() != before
    assert [*folder.parent.glob("student.before*")] == told == []
    (folder / "onnx").mkdir()
    (folder / "onnx" / "notes.txt").write_text("mine")
    save("student/kd-lora")  # the same one again: nothing is touched
    assert told == []
    save("student/lora")
    (aside,) = folder.parent.glob("student.before*")
    assert (aside / "onnx" / "notes.txt").read_text() == "mine"
    assert not (folder / "onnx").exists()
    (note,) = told
    assert "onnx/notes.txt" in note
    assert str(aside) in note


@pytest.fixture
def resaved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes the study at `tmp_path / "study"` anew, saves its students and gives what is told."""
    monkeypatch.setattr("kdlora.models.saved.load_trained", saved_nothing)
    monkeypatch.setattr("kdlora.ship.student.call_in_worker", lambda call, *told: call(*told))

    def save(tasks: list[str], *, lr: float, flagged: str | None = None) -> list[str]:
        store = Store(tmp_path / "study")
        made = store_study(
            tmp_path / f"{tasks}-{lr}-{flagged}", lambda run: (0.8, 0.8),
            flagged=lambda run: [ERROR] * (run.task.name == flagged), tasks=tasks,
            arms=["teacher/fft", "student/lora"], training={"lr": lr},
        )  # fmt: skip
        shutil.copytree(made.root, store.root, dirs_exist_ok=True)
        told: list[str] = []
        save_students(load_frame(store.root), store, told.append)
        return told

    return save


def test_a_student_of_earlier_settings_is_set_aside_where_none_takes_its_place(
    tmp_path: Path, resaved: Callable[..., list[str]]
) -> None:
    study = tmp_path / "study"
    assert resaved(["rte"], lr=1e-3) == []
    (saved,) = saved_students(study)
    card = (saved / CARD).read_text()
    (note,) = resaved(["rte"], lr=1e-8, flagged="rte")
    assert "no longer in the study" in note
    assert str(study / "student.before-0") in note
    assert saved_students(study) == []
    assert (study / "student.before-0" / CARD).read_text() == card


def test_of_several_tasks_only_the_stale_student_is_set_aside(
    tmp_path: Path, resaved: Callable[..., list[str]]
) -> None:
    study = tmp_path / "study"
    resaved(["rte", "mrpc"], lr=1e-3)
    before = {folder.name for folder in saved_students(study)}
    (note,) = resaved(["rte", "mrpc"], lr=1e-8, flagged="rte")
    assert "rte--p.before-0" in note
    assert before == {"rte--p", "mrpc--p"}
    assert [folder.name for folder in saved_students(study)] == ["mrpc--p"]
    assert (study / "student" / "rte--p.before-0" / CARD).is_file()


def test_a_task_that_is_added_loses_no_student_of_another(
    tmp_path: Path, resaved: Callable[..., list[str]]
) -> None:
    study = tmp_path / "study"
    resaved(["rte"], lr=1e-3)
    assert resaved(["rte", "mrpc"], lr=1e-3) == []
    assert (study / "student" / CARD).is_file()
    (note,) = resaved(["mrpc", "cola"], lr=1e-3, flagged="cola")  # the first one is stale now
    assert str(study / "student.before-0") in note
    assert [folder.name for folder in saved_students(study)] == ["mrpc--p"]


def said_first(facts: Facts) -> str:
    """What the first screen says of the student to ship."""
    found = pair_answer.to_ship(facts)
    return (found or pair_answer.sentences(facts, pair_answer.FIRST)[0]).text


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


def test_why_a_study_saves_no_student_is_told_by_task_and_pair(tmp_path: Path) -> None:
    def why(**options: Any) -> dict[str, str]:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        return unsaved_students(
            load_frame(store_study(root, lambda run: (0.5, 0.5), **options).root)
        )

    assert why() == {}
    (told,) = why(flagged=lambda run: [ERROR]).values()
    assert f"every run of a student that is done carries an error flag ({ERROR.name});" in told
    assert "settings" in told
    several = why(tasks=["rte", "mrpc"], flagged=lambda run: [ERROR] * (run.task.name == "rte"))
    assert list(several) == ["rte--p"]
    assert why(arms=["teacher/fft"], flagged=lambda run: [ERROR]) == {}


def test_a_student_that_is_not_done_is_not_called_flagged() -> None:
    undone = row("student/lora", score=0.8, status="missing")
    (told,) = unsaved_students(study(row("teacher/fft", score=0.9), undone)).values()
    assert told.startswith("no run of a student is done")


def test_the_first_screen_says_where_a_form_of_the_teacher_is_better() -> None:
    def made(teacher_ms: float) -> list[str]:
        frame = study(
            row("teacher/fft", score=0.9, latency_p95_ms=teacher_ms, latency_p50_ms=teacher_ms),
            row("student/kd-lora", score=0.85),
        )
        return [f.text for f in which_to_ship.teacher_instead(recommend_profiles(frame, {}, []))]

    (text,) = made(12.0)
    assert "the fully fine-tuned teacher" in text
    assert "server" in text
    assert "student" not in text.split(":")[1].replace("every student", "")
