from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.optimize import approx_fprime

from kdlora.evidence import mixed_model as mixed
from kdlora.evidence.mixed_model import mixed_model
from tests.harness.evidence_frames import grid

ARMS = ["teacher/fft", "teacher/lora", "student/kd-lora"]
TASKS = [f"t{i}" for i in range(8)]
PAIRS = ["p", "q", "r"]


def draw(seed: int = 0, seeds: int = 2) -> pd.DataFrame:
    """Arms at 80, 78 and 70 points, with every random effect of the model."""
    rng = np.random.default_rng(seed)
    effects: dict[object, float] = {}

    def effect(spread: float, *key: str) -> float:
        return effects.setdefault(key, rng.normal(0, spread))

    def score(arm: str, pair: str, task: str, run: int) -> float:
        base = {ARMS[0]: 80.0, ARMS[1]: 78.0, ARMS[2]: 70.0}[arm]
        random = effect(8, task) + effect(3, task, pair) + effect(2, task, arm)
        return (base + random + effect(1.5, task, pair, arm) + rng.normal(0, 1)) / 100

    frame = grid(score, arms=ARMS, tasks=TASKS, pairs=PAIRS, seeds=range(seeds))
    return frame.assign(score=frame["score"].clip(upper=1))


@pytest.fixture(scope="module")
def study() -> pd.DataFrame:
    return draw()


def test_a_balanced_grid_gives_the_paired_means_and_their_error(study: pd.DataFrame) -> None:
    # Balanced REML: differences are those of plain means, with the ANOVA error of arm x task.
    found = {m.arm: m for m in mixed_model(study, reference=ARMS[0]).arms}
    table = 100 * study.pivot_table(index="task", columns="arm", values="score")[ARMS]
    for arm in ARMS[1:]:
        assert found[arm].difference == pytest.approx(
            table[arm].mean() - table[ARMS[0]].mean(), abs=1e-4
        )
    centred = table.sub(table.mean(1), axis=0) - (table.mean() - table.to_numpy().mean())
    error = np.sqrt(2 * (centred.to_numpy() ** 2).sum() / (7 * 2) / 8)
    assert found[ARMS[1]].difference_se == pytest.approx(error, rel=0.01)


def test_holes_do_not_bias_an_arm() -> None:
    # The weak arm is missing on the hard tasks: pooled means would flatter it.
    frame = draw(seed=3)
    hard = 100 * frame[frame["arm"] == ARMS[0]].groupby("task")["score"].mean().sort_values()
    holes = frame["task"].isin(hard.index[:3]) & (frame["arm"] == ARMS[2])
    pooled = 100 * (
        frame[~holes & (frame["arm"] == ARMS[2])]["score"].mean()
        - frame[frame["arm"] == ARMS[0]]["score"].mean()
    )
    fitted = {m.arm: m for m in mixed_model(frame[~holes], reference=ARMS[0]).arms}
    full = {m.arm: m for m in mixed_model(frame, reference=ARMS[0]).arms}
    truth = full[ARMS[2]].difference
    assert abs(fitted[ARMS[2]].difference - truth) < abs(pooled - truth) / 2


def test_variances_are_those_drawn() -> None:
    variances = [mixed_model(draw(seed), reference=ARMS[0]).variances for seed in range(4)]
    mean = {k: np.mean([v[k] for v in variances]) for k in variances[0]}
    assert mean["noise"] == pytest.approx(1, rel=0.2)
    assert mean["arm x task"] == pytest.approx(4, rel=0.5)
    assert mean["arm x block"] == pytest.approx(2.25, rel=0.5)
    assert mean["task"] == pytest.approx(64, rel=0.6)


def test_the_best_arm_is_first_and_p_is_corrected(study: pd.DataFrame) -> None:
    found = mixed_model(study, reference=ARMS[0])
    means = [m.mean for m in found.arms]
    assert means == sorted(means, reverse=True)
    p = sorted(m.p for m in found.arms if m.p is not None)
    corrected = sorted(m.p_corrected for m in found.arms if m.p_corrected is not None)
    assert corrected[0] == pytest.approx(2 * p[0])


def dense_deviance(frame: pd.DataFrame, variances: dict[str, float]) -> float:
    """-2 log of the restricted likelihood by its definition, with one matrix of all runs."""
    y = 100 * frame["score"].to_numpy(float)

    def same(*columns: str) -> np.ndarray:
        key = frame[list(columns)].astype(str).agg("/".join, axis=1).to_numpy()
        return key[:, None] == key

    keys = {"task": ["task"], "block": ["task", "pair"], "arm x task": ["task", "arm"],
            "arm x block": ["task", "pair", "arm"]}  # fmt: skip
    v = variances["noise"] * np.eye(len(y))
    for name, columns in keys.items():
        v = v + variances.get(name, 0.0) * same(*columns)
    x = (frame["arm"].to_numpy()[:, None] == np.unique(frame["arm"])).astype(float)
    inverse = np.linalg.inv(v)
    information = x.T @ inverse @ x
    means = np.linalg.solve(information, x.T @ inverse @ y)
    left = y - x @ means
    determinants = np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1]
    free = len(y) - x.shape[1]
    return free * np.log(2 * np.pi) + determinants + left @ inverse @ left


def uneven(seed: int) -> pd.DataFrame:
    """A drawn study of which a third of the runs is missing."""
    frame = draw(seed, seeds=3)
    return frame.sample(frac=0.65, random_state=seed).reset_index(drop=True)


@pytest.mark.parametrize("frame", [draw(0), uneven(1), uneven(2), draw(4, seeds=1)])
def test_the_likelihood_is_that_of_its_definition_and_no_variances_are_likelier(frame) -> None:
    found = mixed_model(frame, reference=ARMS[0])
    assert -2 * found.log_likelihood == pytest.approx(dense_deviance(frame, found.variances))
    for name in found.variances:
        for factor in (0.8, 1.25):
            other = found.variances | {name: factor * found.variances[name]}
            assert dense_deviance(frame, other) >= -2 * found.log_likelihood - 1e-6


def test_the_derivatives_are_those_of_the_likelihood() -> None:
    frame = uneven(3)
    data = frame[["arm", "task", "pair"]].assign(y=100 * frame["score"])
    likelihood = mixed._Likelihood.of(data)
    ratios = np.array([1.3, -0.4, 0.7, 0.2])
    assert len(likelihood.effects) == 4
    known = approx_fprime(ratios, lambda at: likelihood.deviance(at)[0], 1e-6)
    assert likelihood.deviance(ratios)[1] == pytest.approx(known, rel=1e-4)


def test_it_is_statsmodels_where_that_converges() -> None:
    frame = uneven(5)
    found = mixed_model(frame, reference=ARMS[0])
    data = frame[["arm", "task", "pair"]].assign(y=100 * frame["score"])
    effects = {"block": "0 + C(pair)", "arm": "0 + C(arm)", "cell": "0 + C(arm):C(pair)"}
    known = smf.mixedlm(
        "y ~ 0 + C(arm)", data, groups="task", re_formula="1", vc_formula=effects
    ).fit(reml=True)
    assert known.converged
    assert found.log_likelihood == pytest.approx(known.llf, abs=1e-4)
    for mean in found.arms:
        assert mean.mean == pytest.approx(known.fe_params[f"C(arm)[{mean.arm}]"], abs=1e-3)
        assert mean.se == pytest.approx(known.bse_fe[f"C(arm)[{mean.arm}]"], rel=1e-2)


def test_an_effect_that_is_not_there_is_told_as_0() -> None:
    rng = np.random.default_rng(9)
    frame = draw(0).assign(score=lambda f: 0.7 + 0.01 * rng.normal(size=len(f)))
    found = mixed_model(frame, reference=ARMS[0])
    none = [name for name, value in found.variances.items() if value == 0]
    assert none == ["task", "block", "arm x task", "arm x block"]
    (note,) = found.notes
    assert note.endswith(", ".join(none))
    # nothing but noise is left: the error of a plain mean
    runs = len(frame) / len(ARMS)
    assert found.arms[0].se == pytest.approx((found.variances["noise"] / runs) ** 0.5, rel=1e-4)


def test_runs_without_a_pair_are_of_one_pair(study: pd.DataFrame) -> None:
    nameless = study.assign(pair=study["pair"].where(study["pair"] != "q", None))
    found, known = (mixed_model(f, reference=ARMS[0]) for f in (nameless, study))
    assert found.variances == pytest.approx(known.variances, rel=1e-3)
    assert [m.n_runs for m in found.arms] == [m.n_runs for m in known.arms]


def test_equal_runs_of_a_cell_still_fit(study: pd.DataFrame) -> None:
    once = study[study["seed"] == 0]
    twice = pd.concat([once, once.assign(seed=1)])
    found = mixed_model(twice, reference=ARMS[0])
    assert "the runs of each cell are equal: a cell counts once" in found.notes
    known = {m.arm: m for m in mixed_model(once, reference=ARMS[0]).arms}
    for m in found.arms:
        assert m.n_runs == 2 * known[m.arm].n_runs
        assert m.mean == pytest.approx(known[m.arm].mean)
        assert m.se == pytest.approx(known[m.arm].se)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f[f["arm"] == ARMS[0]], "1 arm"),
        (lambda f: f[f["arm"] != ARMS[0]], "reference"),
        (lambda f: f[f["task"].isin(TASKS[:2])], "2 tasks"),
        (lambda f: f.assign(score=0.8), "all scores are equal"),
        (lambda f: f.assign(score=f["arm"].str.len() / 100), "all scores of an arm are equal"),
        (lambda f: f.head(0), "0 arm"),
        (lambda f: f.assign(score=np.nan), "0 arm"),
    ],
)
def test_what_cannot_be_fitted_is_said(study: pd.DataFrame, change, words: str) -> None:
    found = mixed_model(change(study), reference=ARMS[0])
    assert found.arms == ()
    assert words in found.cannot


def test_one_pair_and_one_seed_still_fit(study: pd.DataFrame) -> None:
    one = study[(study["pair"] == "p") & (study["seed"] == 0)]
    found = mixed_model(one, reference=ARMS[0])
    assert not found.cannot
    table = 100 * one.pivot_table(index="task", columns="arm", values="score")
    by_arm = {m.arm: m for m in found.arms}
    assert by_arm[ARMS[2]].difference == pytest.approx(
        (table[ARMS[2]] - table[ARMS[0]]).mean(), abs=1e-3
    )
