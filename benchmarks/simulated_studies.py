"""Simulated studies with a known truth, as frames and predictions that the public compare reads.

A frame holds many studies at once: arms `a #i` and `b #i` are those of study i. Scores are in the
unit of a made-up metric, so that nothing is rounded; a difference of a and b is

    truth + (arm x task) + (arm x block) + noise of two runs

where the noise of runs of one seed can be common to all tasks, and a side can be a run that several
pairs share. Predictions are drawn so that a run's true accuracy is known: a text is answered right
where a latent value, which all models of a task have partly in common, is below a threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import special

from kdlora.records.predictions import SplitOutputs
from kdlora.records.tidy import StudyFrame

METRIC = "made up"  # kdlora keeps the unit of a metric that it does not know
LEVEL = 75.0
INHERITED = 0.3  # of the variance of a student's noise is its teacher's


@dataclass(frozen=True)
class Design:
    """A kind of study. Standard deviations are those of a difference of two runs; points.

    arms: models that a question holds against b; with several it is a family of comparisons.
    teachers: pairs are of so many teachers in turn, the first with the first student and so on;
    side b is the run of the teacher, which its students share and from which they inherit a part of
    their noise (`INHERITED` of its variance).

    noise: of runs, on the first task `uneven` times that. seed_correlation: of runs of one seed on
    unlike tasks. tails: degrees of freedom of the noise (0: normal). collapse: how often a run
    falls by 25. grid: scores are rounded to multiples of it (ties). ceiling: most that a score can
    be. shared: side b is one run for all pairs of a task and seed. own_seeds: no seed is common to
    tasks. one_seed_tasks: how many tasks, the noisy one first, have a single seed.

    texts: of each report split; 0 for studies without predictions. accuracy, common: of the models,
    and the share of the latent variance that all models have in common. seed_spread: of a run's
    true accuracy. prior: shares of classes; with more than one number the metric is macro-F1.
    """

    name: str
    tasks: int = 1
    pairs: int = 1
    seeds: int = 1
    arms: int = 1
    teachers: int = 0
    task: float = 0.0
    block: float = 0.0
    noise: float = 2.0
    uneven: float = 1.0
    seed_correlation: float = 0.0
    tails: float = 0.0
    collapse: float = 0.0
    grid: float = 0.0
    ceiling: float = 1e9
    shared: bool = False
    own_seeds: bool = False
    one_seed_tasks: int = 0
    texts: int = 0
    accuracy: float = 0.85
    common: float = 0.6
    seed_spread: float = 0.0
    prior: tuple[float, ...] = ()


@dataclass(frozen=True)
class Drawn:
    """Studies as compare takes them, and what is true of each.

    contrasts: (a, b), the comparisons of a study one after the other. models, tasks: the true
    difference of these trained models [contrasts], and of the recipes on these tasks [contrasts]
    (over the replicated blocks); on tasks like these it is `population`.
    """

    study: StudyFrame
    contrasts: list[tuple[str, str]]
    models: np.ndarray
    tasks: np.ndarray
    population: float


@dataclass
class _Rows:
    parts: list[pd.DataFrame] = field(default_factory=list)

    def add(self, arm: str, cells: dict[str, np.ndarray], score: np.ndarray, run: list) -> None:
        self.parts.append(pd.DataFrame({**cells, "arm": arm, "score": score, "run_id": run}))

    def frame(self, metric: str) -> pd.DataFrame:
        frame = pd.concat(self.parts, ignore_index=True)
        return frame.assign(metric=metric, direction=1, status="done", role="student")


def draw(design: Design, n: int, rng: np.random.Generator, difference: float = 0.0) -> Drawn:
    """`n` studies in which a is `difference` better than b, in the population of every scope."""
    if design.texts:
        return _draw_predictions(design, n, rng, difference)
    return _draw_scores(design, n, rng, difference)


def _cells(design: Design) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """The columns of the matched cells, and their task, pair and seed codes."""
    task, pair, seed = np.indices((design.tasks, design.pairs, design.seeds)).reshape(3, -1)
    kept = (task >= design.one_seed_tasks) | (seed == 0)
    task, pair, seed = task[kept], pair[kept], seed[kept]
    names = {
        "task": np.char.add("t", task.astype(str)).astype(object),
        "pair": np.char.add("p", pair.astype(str)).astype(object),
        "seed": seed + (design.own_seeds * design.seeds * task),
    }
    return names, task, pair, seed


def _draw_scores(design: Design, n: int, rng: np.random.Generator, difference: float) -> Drawn:
    names, task, pair, seed = _cells(design)
    shape = (n, design.tasks, design.pairs, design.seeds)
    replicated = np.arange(design.tasks) >= design.one_seed_tasks
    effects = []
    for _ in range(design.arms):
        tasks = design.task * rng.standard_normal((n, design.tasks, 1))
        effects.append(tasks + design.block * rng.standard_normal((n, design.tasks, design.pairs)))
    level = LEVEL + 8 * rng.standard_normal((n, design.tasks))[:, task]
    shared = _sharing(design)
    of_pair = np.arange(design.pairs) % shared  # which of the runs of side b serves it
    noises = [_noise(design, shape, rng) for _ in range(design.arms)]
    noise_b = _noise(design, (*shape[:2], shared, shape[3]), rng)[:, :, of_pair]
    if design.teachers:
        noises = [
            np.sqrt(1 - INHERITED) * own + np.sqrt(INHERITED) * noise_b for own in noises
        ]  # fmt: skip
    noises = [noise[:, task, pair, seed] / np.sqrt(2) for noise in (*noises, noise_b)]
    sides = [level + noise for noise in noises]
    for k, effect in enumerate(effects):
        sides[k] = sides[k] + difference + effect[:, task, pair]
    if design.grid:
        sides = [np.round(side / design.grid) * design.grid for side in sides]
    sides = [np.minimum(side, design.ceiling) for side in sides]
    rows, contrasts = _Rows(), []
    cell = [f"{t}-{p}-{s}" for t, p, s in zip(task, pair, seed, strict=True)]
    run = [f"{t}-{of_pair[p]}-{s}" for t, p, s in zip(task, pair, seed, strict=True)]
    for i in range(n):
        for k, side in enumerate(sides[:-1]):
            rows.add(_arm(i, k), names, side[i], [f"{_arm(i, k)}-{c}" for c in cell])
            contrasts.append((_arm(i, k), f"b #{i}"))
        rows.add(f"b #{i}", names, sides[-1][i], [f"b{i}-{c}" for c in run])
    truth = np.stack([difference + e[:, replicated].mean((1, 2)) for e in effects], 1).ravel()
    return Drawn(StudyFrame.of(rows.frame(METRIC)), contrasts, truth, truth, difference)


def _arm(study: int, k: int) -> str:
    return f"{'acdefghijklmnopq'[k]} #{study}"


def _sharing(design: Design) -> int:
    """How many runs of side b there are for all pairs of a task and seed."""
    return 1 if design.shared else design.teachers or design.pairs


def _noise(design: Design, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of runs [studies, tasks, pairs, seeds] as a difference would have it."""
    own = rng.standard_normal(shape)
    if design.tails:
        own = rng.standard_t(design.tails, shape) / np.sqrt(design.tails / (design.tails - 2))
    common = rng.standard_normal((shape[0], 1, 1, shape[3]))
    share = design.seed_correlation
    noise = design.noise * (np.sqrt(1 - share) * own + np.sqrt(share) * common)
    noise[:, 0] *= design.uneven
    return noise - 25 * np.sqrt(2) * (rng.random(shape) < design.collapse)


def _draw_predictions(design: Design, n: int, rng: np.random.Generator, difference: float) -> Drawn:
    """Studies with predictions; scores are those of the texts."""
    names, task, pair, seed = _cells(design)
    rows, contrasts, models = _Rows(), [], []
    outputs: dict[str, SplitOutputs] = {}
    macro = len(design.prior) > 1
    shared = _sharing(design)
    of_pair = np.arange(design.pairs) % shared
    for i in range(n):
        drawn = design.seed_spread * rng.standard_normal(
            (design.arms + 1, design.tasks, design.pairs, design.seeds)
        )
        drawn[-1] = drawn[-1][:, of_pair]
        if design.teachers:
            drawn[:-1] = np.sqrt(1 - INHERITED) * drawn[:-1] + np.sqrt(INHERITED) * drawn[-1]
        shares = design.accuracy + drawn / 100
        shares[:-1] += difference / 100
        shares = np.clip(shares, 0.02, 0.998)
        texts = [_texts(design, rng) for _ in range(design.tasks)]
        for k in range(design.arms + 1):
            is_b = k == design.arms
            name = f"b #{i}" if is_b else _arm(i, k)
            scores, runs = [], []
            for t, p, s in zip(task, pair, seed, strict=True):
                run = f"{name}-{t}-{of_pair[p] if is_b else p}-{s}"
                if run not in outputs:
                    outputs[run] = _answers(texts[t], shares[k, t, p, s], design, rng)
                runs.append(run)
                scores.append(_score(outputs[run], macro))
            rows.add(name, names, np.array(scores), runs)
            if not is_b:
                contrasts.append((name, f"b #{i}"))
                models.append(100 * float((shares[k] - shares[-1]).mean()))
    frame = StudyFrame.of(rows.frame("macro_f1" if macro else "accuracy"), outputs)
    truth = np.full(len(contrasts), difference)
    return Drawn(frame, contrasts, truth if macro else np.array(models), truth, difference)


def _texts(design: Design, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels [texts], and how hard each text is."""
    prior = design.prior or (0.5, 0.5)
    return rng.choice(len(prior), design.texts, p=prior), rng.standard_normal(design.texts)


def _answers(
    texts: tuple[np.ndarray, np.ndarray], share: float, design: Design, rng: np.random.Generator
) -> SplitOutputs:
    """Predictions that are right on this share of all texts that there could be."""
    labels, hard = texts
    own = rng.standard_normal(len(labels))
    latent = np.sqrt(design.common) * hard + np.sqrt(1 - design.common) * own
    right = latent < special.ndtri(share)
    k = max(2, len(design.prior))
    wrong = (labels + rng.integers(1, k, len(labels))) % k
    return SplitOutputs(np.arange(len(labels)), labels, np.eye(k)[np.where(right, labels, wrong)])


def _score(made: SplitOutputs, macro: bool) -> float:
    from kdlora.vocabulary.metric import metric

    found = metric("macro_f1" if macro else "accuracy").score(made.outputs, made.labels)
    return float("nan") if found is None else found
