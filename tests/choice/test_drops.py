"""How much worse than its teacher a model may be: in points, or in per cent of an error."""

from __future__ import annotations

import numpy as np
import pytest

from kdlora.choice.candidates import draw_candidates, gather_candidates, run_scores
from kdlora.choice.constraints import PROFILES, Constraints
from kdlora.choice.recommend import recommend
from kdlora.cli.recommend import _broken
from kdlora.records.predictions import SplitOutputs
from kdlora.report.content.which_to_ship import limits_text, recommended
from kdlora.vocabulary.metric import metric
from tests.harness.choice_studies import row, study

LIMITED = {
    name: one.constraints.max_drop for name, one in PROFILES.items() if one.constraints.max_drop
}
IN_POINTS, ERRORS = ("accuracy", "pearson"), ("rmse", "mae")


def scored(name: str, **scores: float):
    direction = metric(name).direction
    arms = {"teacher/fft": scores["teacher"], "student/fft": scores["student"]}
    return study(*(row(a, score=s, metric=name, direction=direction) for a, s in arms.items()))


def choose(frame, constraints, outputs=None):
    pool = gather_candidates(frame, "t")
    drawn = draw_candidates(pool, frame, outputs or {}, rng=np.random.default_rng(0), draws=400)
    return recommend(pool, constraints, drawn, run_scores=run_scores(frame))


def keeps(frame, max_drop: float) -> bool:
    """Whether the student, which is the smaller one, is within the limit."""
    found = choose(frame, Constraints(max_drop=max_drop, prefer="size"))
    return found.choice.candidate.arm == "student/fft"


@pytest.mark.parametrize("profile", LIMITED)
@pytest.mark.parametrize("name", IN_POINTS)
def test_a_profile_allows_its_points_and_no_more(profile, name) -> None:
    most = LIMITED[profile] / 100
    assert keeps(scored(name, teacher=0.9, student=0.9 - 0.9 * most), LIMITED[profile])
    assert not keeps(scored(name, teacher=0.9, student=0.9 - 1.1 * most), LIMITED[profile])


@pytest.mark.parametrize("profile", LIMITED)
@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_a_profile_allows_its_share_of_an_error_whatever_the_unit(profile, name, unit) -> None:
    share = LIMITED[profile] / 100
    assert keeps(scored(name, teacher=unit, student=unit * (1 + 0.9 * share)), LIMITED[profile])
    assert not keeps(scored(name, teacher=unit, student=unit * (1 + 1.1 * share)), LIMITED[profile])


@pytest.mark.parametrize("profile", LIMITED)
@pytest.mark.parametrize(
    ("name", "teacher", "student"),
    [("accuracy", 0.90, 0.60), ("pearson", 0.90, 0.30), ("rmse", 0.30, 0.95), ("mae", 0.20, 0.60)],
)
def test_no_profile_ships_a_broken_student(profile, name, teacher, student) -> None:
    frame = scored(name, teacher=teacher, student=student)
    found = choose(frame, PROFILES[profile].constraints)
    assert found.choice is None or found.choice.candidate.arm == "teacher/fft"


@pytest.mark.parametrize(
    ("name", "teacher", "student", "drop", "unit"),
    [
        ("accuracy", 0.90, 0.86, 4.0, "points"), ("pearson", 0.80, 0.60, 20.0, "points"),
        ("rmse", 0.50, 0.60, 20.0, "%"), ("mae", 2.0, 1.5, -25.0, "%"),
    ],
)  # fmt: skip
def test_a_drop_and_its_unit_are_told_everywhere(name, teacher, student, drop, unit) -> None:
    """By hand: 0.60 is a fifth more than 0.50."""
    frame = scored(name, teacher=teacher, student=student)
    found = choose(frame, Constraints(max_drop=30.0, runtime="torch", prefer="size"))
    assert found.choice.drop == pytest.approx(drop)
    told = found.to_dict()
    assert (told["drop_unit"], told["choice"]["drop"]) == (unit, pytest.approx(drop))
    assert f"at most 30 {unit} " in limits_text(found)
    (cells,) = recommended([found]).rows
    (cell,) = (c for c in cells if c.extra and c.extra.get("drop_unit") == unit)
    assert cell.text.endswith(" %") == (unit == "%")


@pytest.mark.parametrize(("name", "asked"), [("accuracy", "4 points"), ("rmse", "4 %")])
def test_what_a_limit_lacks_has_the_limits_unit(name, asked) -> None:
    good, bad = (0.9, 0.5) if name == "accuracy" else (0.5, 0.7)  # both are a drop of 40
    frame = scored(name, teacher=good, student=bad)
    found = choose(frame, Constraints(max_drop=4.0, role="student", runtime="torch"))
    (nearest,) = (j for j in found.considered if j.candidate.title == "student/fft as PyTorch")
    told = _broken(nearest.broken[0], found)
    assert told == f"max_drop is {asked.replace('4', '40')}, asked {asked}"
    (give,) = (g for g in found.eased if g.constraint == "max_drop")
    assert give.needed == pytest.approx(40.0)


def test_the_most_that_an_error_may_be_is_called_so() -> None:
    found = choose(scored("rmse", teacher=0.5, student=0.6), Constraints(min_score=0.55))
    assert "a score of at most 0.55" in limits_text(found)
    found = choose(scored("accuracy", teacher=0.9, student=0.8), Constraints(min_score=0.85))
    assert "a score of at least 0.85" in limits_text(found)


@pytest.mark.parametrize("unit", [1e-2, 1e2])
def test_how_sure_a_choice_is_does_not_hang_on_the_unit_of_an_error(unit) -> None:
    """Labels and answers in another unit are the same study."""

    def found(scale: float):
        rng = np.random.default_rng(1)
        labels = rng.normal(size=400)
        ids = np.array([f"e{i}" for i in range(400)], object)
        outputs, scores = {}, {}
        for arm, noise in (("teacher", 0.50), ("student", 0.53)):
            said = labels + noise * rng.normal(size=400)
            scores[arm] = scale * float(np.sqrt(np.mean((said - labels) ** 2)))
            outputs[f"{arm}-fft-1"] = SplitOutputs(ids, scale * labels, scale * said[:, None])
        wish = Constraints(max_drop=8.0, prefer="size", quantize=("none",), runtime="torch")
        return choose(scored("rmse", **scores), wish, outputs)

    plain, scaled = found(1.0), found(unit)
    assert 0.05 < plain.choice.p_meets < 0.999  # else nothing would be seen
    assert scaled.choice.p_meets == pytest.approx(plain.choice.p_meets)
    assert scaled.choice.drop == pytest.approx(plain.choice.drop)
    assert (scaled.choice.drop_low, scaled.choice.drop_high) == pytest.approx(
        (plain.choice.drop_low, plain.choice.drop_high)
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [("accuracy", "difference of 1.00 points with"), ("rmse", "difference of 0.0100 rmse with")],
)
def test_what_more_seeds_would_tell_has_the_metrics_unit(name, told) -> None:
    """By hand: the means of the two are 0.01 apart."""
    direction = metric(name).direction
    scores = {"student/fft": (0.800, 0.802), "student/lora": (0.795, 0.787)}
    frame = study(*(row(arm, score=score, seed=seed, metric=name, direction=direction)
                    for arm, own in scores.items() for seed, score in enumerate(own)))  # fmt: skip
    (step,) = choose(frame, Constraints(quantize=("none",), runtime="torch")).next_steps
    assert told in step.text
