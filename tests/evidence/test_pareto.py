from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlora.errors import InputError
from kdlora.evidence.pareto import dominates, pareto_front
from kdlora.evidence.result import Rules
from tests.harness.evidence_frames import grid

ARMS = {  # score, size
    "teacher/fft": (0.90, 400.0),
    "teacher/lora": (0.85, 100.0),
    "student/lora": (0.80, 200.0),  # worse and larger than teacher/lora
    "student/kd-lora": (0.70, 50.0),
}
QUICK = Rules(draws=400)


def study(spread: float = 0.0, **columns):
    rng = np.random.default_rng(0)
    frame = grid(
        lambda arm, *_: ARMS[arm][0] + rng.normal(0, spread) if spread else ARMS[arm][0],
        arms=list(ARMS), tasks=[f"t{i}" for i in range(6)],
    )  # fmt: skip
    return frame.assign(size_mb=frame["arm"].map({a: v[1] for a, v in ARMS.items()}), **columns)


def front(frame, **options):
    return pareto_front(
        frame, rng=np.random.default_rng(0), rules=QUICK, axes={"score": 1, "size_mb": -1},
        **options,
    )  # fmt: skip


def test_the_front_by_hand() -> None:
    points = {p.arm: p for p in front(study()).points}
    assert {a for a, p in points.items() if p.on_front} == {
        "teacher/fft", "teacher/lora", "student/kd-lora",
    }  # fmt: skip
    assert points["student/lora"].dominated_by == ("teacher/lora",)
    assert points["student/lora"].on_front_share == 0
    assert points["teacher/fft"].on_front_share == 1
    assert points["teacher/fft"].values == pytest.approx({"score": 90, "size_mb": 400})


def test_a_toss_up_is_on_the_front_half_of_the_time() -> None:
    frame = study()
    rng = np.random.default_rng(3)
    two = frame[frame["arm"].isin(["teacher/lora", "student/lora"])].copy()
    gain = np.repeat(rng.permutation([-3, -2, -1, 1, 2, 3]) / 100, 3)
    lora = two["arm"] == "teacher/lora"
    two["score"] = 0.8
    two.loc[lora, "score"] += gain
    two["size_mb"] = 100.0
    shares = {p.arm: p.on_front_share for p in front(two).points}
    assert shares["teacher/lora"] == pytest.approx(0.5, abs=0.1)
    assert sum(shares.values()) == pytest.approx(1, abs=0.15)


def test_equal_methods_do_not_dominate_each_other() -> None:
    frame = study()
    frame["score"], frame["size_mb"] = 0.8, 100.0
    assert all(p.on_front for p in front(frame).points)


def test_direction_turns_the_axis() -> None:
    turned = pareto_front(
        study(), rng=np.random.default_rng(0), rules=QUICK, axes={"score": 1, "size_mb": 1}
    )
    assert [p.arm for p in turned.points if p.on_front] == ["teacher/fft"]


def test_what_cannot_be_said() -> None:
    frame = study()
    frame.loc[frame["arm"] == "student/lora", "size_mb"] = np.nan
    assert "student/lora" in front(frame).cannot
    with pytest.raises(InputError, match="expected 1 or -1"):
        pareto_front(study(), rng=np.random.default_rng(0), axes={"score": 2})
    with pytest.raises(InputError, match="size_gb"):
        pareto_front(study(), rng=np.random.default_rng(0), axes={"size_gb": -1})
    single = study()
    single = single[(single["task"] == "t0") & (single["seed"] == 1)]
    assert front(single).points[0].on_front_share is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=7),
)
def test_domination_is_the_definition(points: list[tuple[int, int]]) -> None:
    found = dominates(np.array(points, float), np.array([1, -1]))
    for i, (a, b) in enumerate(points):
        for j, (c, d) in enumerate(points):
            assert found[i, j] == (a >= c and b <= d and (a > c or b < d))
