"""What a table marks as not told apart, the comparisons of the same study do not tell apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.evidence.best import best_of, marks
from kdlora.evidence.compare import compare_many
from kdlora.evidence.result import Rules
from kdlora.evidence.study import Evidence, gather
from kdlora.report.content.answer import summary
from kdlora.report.content.quality import quality
from tests.harness.evidence_frames import grid

ARMS = ("teacher/fft", "teacher/lora", "student/fft", "student/lora", "student/kd-lora")
QUICK = Rules(draws=0, permutations=0)


@st.composite
def studies(draw: st.DrawFn) -> pd.DataFrame:
    """Small studies: effects of every size, noise, holes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arms = ARMS[: draw(st.integers(2, 5))]
    effects = dict(zip(arms, rng.choice([0, 0.005, 0.02, 0.3], len(arms)), strict=True))
    spread = draw(st.sampled_from([0.0, 0.001, 0.01, 0.05]))

    def score(arm: str, pair: str, task: str, seed: int) -> float:
        return float(0.6 + effects[arm] + rng.normal(0, spread))

    frame = grid(
        score, arms=arms, pairs=("bert", "roberta")[: draw(st.integers(1, 2))],
        tasks=[f"t{i}" for i in range(draw(st.sampled_from([1, 1, 2, 7])))],
        seeds=range(draw(st.integers(1, 5))), selection_score=0.5, size_mb=4.0,
    )  # fmt: skip
    holes = rng.random(len(frame)) < draw(st.sampled_from([0.0, 0.0, 0.1]))
    return frame.assign(status=np.where(holes, "failed", "done"),
                        score=frame["score"].where(~holes))  # fmt: skip


def described(frame: pd.DataFrame) -> Evidence:
    return gather(frame, rng=np.random.default_rng(0), rules=QUICK, parts=("description",))


@given(studies())
@settings(max_examples=10, deadline=None)
def test_no_mark_contradicts_a_comparison_of_the_same_study(frame: pd.DataFrame) -> None:
    evidence = described(frame)
    facts = evidence.facts
    assert facts is not None
    for (table, pair, column), found in facts.marks.items():
        if column not in ("score", *frame["task"].unique()):
            assert "not told apart" not in found.values()  # costs are not tested
            continue
        if table == "summary":
            means = {o.arm: o.score.mean for o in facts.outcomes[pair]}
        else:
            few = {one.own.arm for one in facts.apart.get(pair, ())}  # shown below the others
            means = {
                a: s.mean
                for (p, t, a), s in facts.spreads.items()
                if (p, t) == (pair, column) and a not in few
            }
        best = [arm for arm, mark in found.items() if mark == "best"]
        known = [mean for mean in means.values() if np.isfinite(mean)]
        assert bool(best) == (len(known) > 1)  # one number is no best
        if best:
            assert max(known) == pytest.approx(max(means[a] for a in best))
        tied = [arm for arm, mark in found.items() if mark == "not told apart"]
        for arm in tied:
            tested = [c for _, c in evidence.comparisons if {c.a, c.b} == {arm, *best}]
            assert tested
            for claim in (claim for c in tested for claim in c.claims.values()):
                assert claim.verdict not in ("superior", "inferior")
                assert claim.p_corrected is None or claim.p_corrected > QUICK.alpha
            for other, mean in means.items():  # nobody stands unmarked between it and the best
                assert mean < means[arm] or other in found


@given(studies())
@settings(max_examples=10, deadline=None)
def test_tables_show_the_marks_and_no_others(frame: pd.DataFrame) -> None:
    facts = described(frame).facts
    assert facts is not None
    words = {"best": "best", "not told apart": "tie", None: ""}
    for key, table in (("summary", summary(facts)), ("quality", quality(facts))):
        if table is None:
            continue
        names = [c.key for c in table.columns]
        for row in table.rows:
            cells = dict(zip(names, row, strict=True))
            pair = cells["pair"].value if "pair" in cells else frame["pair"].iloc[0]
            for column, cell in cells.items():
                mark = facts.marks.get((key, str(pair), column), {}).get(str(cells["model"].value))
                assert cell.standing == words[mark]


def arms_of(*levels: float) -> pd.DataFrame:
    """One task and five seeds; every arm has its level and the noise of a seed."""
    rng = np.random.default_rng(1)
    levels_of = dict(zip(ARMS, levels, strict=False))
    return grid(lambda arm, *_: levels_of[arm] + rng.normal(0, 0.003), arms=ARMS[: len(levels)],
                tasks=("t",), seeds=range(5))  # fmt: skip


def marked(frame: pd.DataFrame) -> dict[str, str]:
    facts = described(frame).facts
    assert facts is not None
    return dict(facts.marks["quality", "bert", "t"])


def test_near_the_best_is_marked_and_far_from_it_is_not() -> None:
    assert marked(arms_of(0.8, 0.8, 0.5)) in (
        {"teacher/fft": "best", "teacher/lora": "not told apart"},
        {"teacher/lora": "best", "teacher/fft": "not told apart"},
    )


def test_an_arm_that_was_never_tested_against_the_best_has_no_mark_and_ends_those_below() -> None:
    # the best is student/kd-lora; it was tested against the reference and its own control alone
    frame = arms_of(0.8, 0.8, 0.8, 0.8, 0.83)
    assert "student/fft" not in marked(frame)
    means = {"best": 3.0, "never tested": 2.0, "near": 1.0}
    (c,) = compare_many(arms_of(0.8, 0.8), [ARMS[:2]], rng=np.random.default_rng(0), rules=QUICK)
    names = {"best": ARMS[0], "never tested": "x", "near": ARMS[1]}
    over = {names[k]: c.matched.places for k in names}
    assert marks({names[k]: v for k, v in means.items()}, 1, over, [c]) == {ARMS[0]: "best"}
    del over["x"]
    assert marks({ARMS[0]: 3.0, ARMS[1]: 1.0}, 1, over, [c])[ARMS[1]] == "not told apart"


def test_means_over_other_cells_than_the_comparison_s_are_not_marked() -> None:
    (c,) = compare_many(arms_of(0.8, 0.8), [ARMS[:2]], rng=np.random.default_rng(0), rules=QUICK)
    fewer = frozenset(list(c.matched.places)[:3])
    means = {ARMS[0]: 0.8, ARMS[1]: 0.79}
    over = {ARMS[0]: c.matched.places, ARMS[1]: fewer}
    assert marks(means, 1, over, [c]) == {ARMS[0]: "best"}
    assert marks(means, 1, dict.fromkeys(means, fewer), [c]) == {ARMS[0]: "best"}
    assert len(marks(means, 1, dict.fromkeys(means, c.matched.places), [c])) == 2


def test_only_the_corrected_tests_decide() -> None:
    (c,) = compare_many(arms_of(0.8, 0.8), [ARMS[:2]], rng=np.random.default_rng(0), rules=QUICK)
    means, over = {ARMS[0]: 0.8, ARMS[1]: 0.79}, dict.fromkeys(ARMS[:2], c.matched.places)
    for p, corrected, marked in ((0.04, 0.08, True), (0.04, 0.04, False)):
        claims = {k: replace(v, p=p, p_corrected=corrected) for k, v in c.claims.items()}
        assert (ARMS[1] in marks(means, 1, over, [replace(c, claims=claims)])) is marked


def test_equal_numbers_are_all_the_best_and_one_alone_is_none() -> None:
    assert best_of({"a": 2.0, "b": 1.0, "c": 1.0 + 1e-12}, -1) == {"b": "best", "c": "best"}
    assert best_of({"a": 2.0, "b": float("nan")}, 1) == {}
