from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from kdlora.evidence.averages import averages
from kdlora.evidence.gains import describe
from kdlora.evidence.result import Rules
from kdlora.evidence.sparse import cell_counts, sparse_arms, too_few
from kdlora.evidence.study import gather, gather_report
from kdlora.records.tidy import StudyFrame
from tests.harness.evidence_frames import grid, noisy, runs_742, with_sparse_rank

FFT, LORA, KD = "teacher/fft", "student/lora", "student/kd-lora"
ARMS = (FFT, LORA, KD)
QUICK = Rules(draws=300, permutations=0)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def without(frame: pd.DataFrame, arm: str, kept: pd.Series | bool) -> pd.DataFrame:
    return frame[(frame["arm"] != arm) | kept]


def test_a_result_that_serves_every_seed_counts_in_each() -> None:
    frame = pd.DataFrame(
        [
            *({"arm": LORA, "pair": "p", "task": "t", "seed": s} for s in (1, 2, 3)),
            {"arm": "teacher/given", "pair": "p", "task": "t", "seed": None},
            {"arm": "baseline/tfidf", "pair": None, "task": "t", "seed": None},
        ]
    )
    assert cell_counts(frame) == {LORA: 3, "teacher/given": 3, "baseline/tfidf": 3}


def test_fewer_than_half_of_the_cells_of_its_role_is_few() -> None:
    frame = grid(noisy(0.1), arms=(*ARMS, "student/dora"), tasks=[f"t{i}" for i in range(4)])
    some = without(frame, "student/dora", frame["task"] == "t0")
    assert sparse_arms(some) == {"student/dora"}
    half = without(frame, "student/dora", frame["task"].isin(["t0", "t1"]))
    assert sparse_arms(half) == set()
    # All students have one seed of the teacher's three: they are the study, not its exception.
    assert sparse_arms(frame[(frame["role"] == "teacher") | (frame["seed"] == 1)]) == set()
    assert sparse_arms(without(frame, "teacher/fft", frame["task"] == "t0")) == set()
    assert too_few(2, frame, ARMS)
    assert not too_few(6, frame, ARMS)


def test_a_model_with_few_cells_takes_none_from_the_others() -> None:
    tasks = [f"t{i}" for i in range(4)]
    frame = grid(noisy(0.1), arms=(*ARMS, "student/dora"), tasks=tasks)
    few = without(frame, "student/dora", frame["task"] == "t0")
    found = averages(StudyFrame.of(few), FFT, rng=rng())
    alone = averages(StudyFrame.of(frame[frame["arm"] != "student/dora"]), FFT, rng=rng())
    assert found.common == alone.common
    assert found.common[0].n_cells == 12
    (apart,) = found.apart
    own, teacher = (few[(few["arm"] == a) & (few["task"] == "t0")] for a in ("student/dora", FFT))
    assert apart.n_cells == 3
    assert apart.mean == pytest.approx(100 * own["score"].mean())
    assert apart.reference_mean == pytest.approx(100 * teacher["score"].mean())
    assert apart.retention == pytest.approx(100 * own["score"].mean() / teacher["score"].mean())


def test_models_that_share_little_stand_against_the_reference_each() -> None:
    tasks = [f"t{i}" for i in range(9)]
    frame = grid(noisy(0.1), arms=ARMS, tasks=tasks)
    frame = without(frame, LORA, frame["task"].isin(tasks[:5]))
    frame = without(frame, KD, frame["task"].isin(tasks[4:]))
    found = averages(StudyFrame.of(frame), FFT, rng=rng())
    assert found.common == ()
    assert "share only 3 cells" in found.shared.reason
    assert {(one.arm, one.n_cells, one.n_tasks) for one in found.apart} == {
        (LORA, 15, 5), (KD, 15, 5),
    }  # fmt: skip
    facts = describe(frame)  # and so says the summary of the pair
    assert facts.outcomes == {}
    assert {(a.own.arm, a.own.blocks, a.teacher.blocks) for a in facts.apart["bert"]} == {
        (LORA, 15, 15), (KD, 15, 15),
    }  # fmt: skip


def test_a_few_runs_of_another_rank_rename_nothing() -> None:
    frame = grid(noisy(0.1), arms=ARMS, tasks=["t0", "t1", "t2"], rank=8.0)
    frame.loc[frame["arm"] == FFT, "rank"] = np.nan
    more = with_sparse_rank(frame, ["t0"], n=1)
    assert set(StudyFrame.of(more).ranks_apart().table["arm"]) == {*ARMS, f"{KD}[rank 16]"}
    # As many of both: neither is the usual one.
    every = pd.concat([frame, frame[frame["arm"] == KD].assign(rank=16.0, run_id="other")])
    assert set(StudyFrame.of(every).ranks_apart().table["arm"]) == {
        FFT, LORA, f"{KD}[rank 8]", f"{KD}[rank 16]",
    }  # fmt: skip


def test_what_is_described_names_the_tasks_that_were_averaged() -> None:
    frame = grid(noisy(0.1), arms=ARMS, tasks=["t0", "t1", "t2", "t3"])
    few = without(frame, KD, frame["task"].isin(["t0"]) & (frame["seed"] == 1))
    facts = describe(few)
    assert {o.arm: (o.blocks, o.tasks) for o in facts.outcomes["bert"]} == {
        FFT: (12, ("t0", "t1", "t2", "t3")), LORA: (12, ("t0", "t1", "t2", "t3")),
    }  # fmt: skip
    (one,) = facts.apart["bert"]
    assert (one.own.arm, one.own.blocks, one.own.tasks) == (KD, 1, ("t0",))
    cell = few[(few["task"] == "t0") & (few["seed"] == 1)].set_index("arm")["score"]
    assert one.own.retained == pytest.approx(cell[KD] / cell[FFT])
    assert one.teacher.score.mean == pytest.approx(cell[FFT])


@pytest.fixture(scope="module")
def both(shared: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The 742 runs, and the same with 35 runs of rank 16 on two tasks."""
    frame = runs_742(shared)
    more = with_sparse_rank(frame, ["rte", "mrpc"], n=35)
    assert len(more) == len(frame) + 35
    return frame, more


def test_runs_of_another_rank_change_no_verdict_and_no_average(both) -> None:
    costs = ("trainable_params_M", "train_time_s")
    plain, more = (gather(f, rng=rng(), costs=costs, rules=QUICK) for f in both)
    assert more.shared.n_cells == plain.shared.n_cells == 37
    assert more.aggregates == plain.aggregates
    assert more.ranks == plain.ranks
    verdicts = {(c.a, c.b): c for _, c in more.comparisons}
    for _, c in plain.comparisons:
        assert verdicts[c.a, c.b].claim == c.claim
        assert verdicts[c.a, c.b].levels == c.levels
    for name in ("improvements", "ratios", "per_cost"):
        known = getattr(more, name)
        assert all(one in known for one in getattr(plain, name)), name
    assert more.front.points == plain.front.points
    assert all("rank 16" in one.arm for one in more.apart)
    assert sum(one.n_cells for one in more.apart) > 0
    ranked = {(c.a, c.b) for _, c in more.comparisons if "rank 16" in c.a}
    assert ("student/kd-lora[rank 16]", "teacher/lora[rank 16]") in ranked


def test_the_same_is_described_of_the_742_runs_with_and_without_them(both) -> None:
    plain, more = (gather_report(f) for f in both)
    assert repr(more.facts.outcomes) == repr(plain.facts.outcomes)  # NaN is not itself
    assert more.facts.blocks == plain.facts.blocks
    assert more.fronts == plain.fronts
    assert {p: m.common for p, m in more.by_pair.items()} == {
        p: m.common for p, m in plain.by_pair.items()
    }
    marks = {k: v for k, v in more.facts.marks.items() if v}
    assert marks == {k: v for k, v in plain.facts.marks.items() if v}
