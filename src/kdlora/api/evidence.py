"""Ask finished studies: which model is better, which to ship, what to doubt, what was published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from kdlora.choice.recommendation import Choices
    from kdlora.evidence.comparison import Comparison
    from kdlora.evidence.coverage import Coverage
    from kdlora.evidence.diagnosis import DiagnosisFinding
    from kdlora.evidence.result import Rules
    from kdlora.evidence.study import Evidence
    from kdlora.records.tidy import StudyFrame
    from kdlora_reproductions import Reproduction


def compare(
    study: str | Path | pd.DataFrame | StudyFrame,
    *,
    reference: str | None = None,
    where: Sequence[str] = (),
    without: Sequence[str] = (),
    keys: Sequence[str] = ("pair", "task", "seed"),
    score: str = "score",
    rules: Rules | None = None,
    seed: int = 0,
) -> Evidence:
    """All that a study's records say of its arms: comparisons by question, averages, ranks, costs.

    Args:
        study: a study's folder or name, or a frame of runs (see `load_frame`). Of a folder the
            stored predictions are read, too, so that texts are a sample; a frame takes them as
            `StudyFrame.of(frame, outputs)`.
        reference: the arm that the others are held against; default the teacher.
        where, without: the part of the study that is compared, see `records.subset.subset`.
        keys: what paired runs share; several runs of an arm in one cell are averaged.
        score: the column to compare, such as ``report.macro_f1``; default the task's own metric.
        rules: error rate, margin of equivalence, correction and draws.
        seed: of all random draws.
    """
    import numpy as np

    from kdlora.evidence.questions import check_arms
    from kdlora.evidence.scores import check_rules
    from kdlora.evidence.study import gather

    runs = _runs(study, where, without).ranks_apart()
    if rules is not None:
        check_rules(runs, rules, score)
    if reference is not None:
        check_arms(runs.table, [reference])
    return gather(
        runs, rng=np.random.default_rng(seed), reference=reference, keys=keys, score=score,
        rules=rules,
    )  # fmt: skip


def compare_arms(
    study: str | Path | pd.DataFrame | StudyFrame,
    a: str | Sequence[str] = (),
    b: str | Sequence[str] = (),
    *,
    reference: str | None = None,
    where: Sequence[str] = (),
    without: Sequence[str] = (),
    keys: Sequence[str] = ("pair", "task", "seed"),
    score: str = "score",
    rules: Rules | None = None,
    budget: str | None = None,
    seed: int = 0,
) -> tuple[Comparison, ...]:
    """Every arm of `a` (default all others) against every arm of `b` (default the reference).

    Arms may be patterns (``student/kd-*``) or name a column too (``student/lora,rank=8``). A
    comparison that is one of the study's own questions has the verdict that it has everywhere:
    p-values are corrected within that question. `budget` names a cost, such as
    ``trainable_params``: only runs of two arms that cost alike (within 10 %) are compared. For the
    other arguments see `compare`.

    >>> (found,) = kdlora.compare_arms("results/demo", "student/kd-lora", "student/lora")
    >>> found.verdict, found.claim.difference
    """
    import numpy as np

    from kdlora.evidence.questions import compare_at_budget, compare_named
    from kdlora.evidence.scores import check_rules

    runs, rng = _runs(study, where, without), np.random.default_rng(seed)
    if rules is not None:
        check_rules(runs, rules, score)
    a, b = ([arm] if isinstance(arm, str) else arm for arm in (a, b))
    if budget is not None:
        b = b or ([reference] if reference else [])
        return compare_at_budget(
            runs, a, b, budget, rng=rng, keys=keys, score=score, rules=rules
        )  # fmt: skip
    return compare_named(
        runs, a, b, rng=rng, reference=reference, keys=keys, score=score, rules=rules
    )


def recommend(
    study: str | Path,
    profile: str | None = None,
    *,
    tasks: Sequence[str] = (),
    where: Sequence[str] = (),
    without: Sequence[str] = (),
    exports: Sequence[str | Path] = (),
    length: int | None = None,
    measured_only: bool = False,
    draws: int = 2_000,
    seed: int = 0,
    **limits: Any,
) -> Choices:
    """Which model to ship, task by task: for a profile (default each of them), or under `limits`
    such as ``max_size_mb=50``, which replace a profile's own (see `choice.constraints`).
    """
    from kdlora.choice.constraints import asked_for
    from kdlora.choice.exports import recommend_study
    from kdlora.records.subset import StudyPart

    return recommend_study(
        study, asked_for(profile, **limits), part=StudyPart(tasks, where, without),
        exports=[Path(folder) for folder in exports], length=length, measured_only=measured_only,
        draws=draws, seed=seed,
    )  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """What a reader must know before believing a study.

    Attributes:
        coverage: which cells of the grid are there; None where no tasks are known.
        findings: every doubt, errors first.
    """

    coverage: Coverage | None
    findings: tuple[DiagnosisFinding, ...]

    @property
    def errors(self) -> tuple[DiagnosisFinding, ...]:
        return tuple(one for one in self.findings if one.severity == "error")


def doctor(
    study: str | Path | pd.DataFrame,
    *,
    results: str | Path = "results",
    mapping: str | Path | None = None,
) -> Diagnosis:
    """Coverage and every doubt about a study, a table of results that is read now, or a frame.

    `mapping` says what the columns of a table mean: a file, or a known format's name.

    >>> for finding in kdlora.doctor("results/demo").errors:
    ...     print(finding.name, finding.sentence)
    """
    from kdlora.evidence.coverage import coverage
    from kdlora.evidence.diagnosis import diagnose
    from kdlora.importing.results import read_results
    from kdlora.records.frame import load_frame
    from kdlora.records.study_folder import find_study

    if not isinstance(study, str | Path):
        frame = study
    elif Path(study).is_file():
        frame = read_results(study, mapping).frame
    else:
        frame = load_frame(find_study(study, Path(results)))
    known = "task" in frame and bool(frame["task"].notna().any())
    return Diagnosis(coverage(frame) if known else None, diagnose(frame))


def _runs(
    study: str | Path | pd.DataFrame | StudyFrame, where: Sequence[str], without: Sequence[str]
) -> StudyFrame:
    """The runs of a study, or a part of them; of a folder also what they predicted."""
    from kdlora.records.frame import load_frame
    from kdlora.records.predictions import RunOutputs
    from kdlora.records.study_folder import find_study
    from kdlora.records.subset import subset
    from kdlora.records.tidy import StudyFrame

    if isinstance(study, StudyFrame):
        if not where and not without:
            return study
        kept = subset(study.table, where, without)[0].index
        return study.where(study.table.index.isin(kept))
    if not isinstance(study, str | Path):
        return StudyFrame.of(subset(study, where, without)[0])
    outputs = RunOutputs(find_study(study), "report")
    return StudyFrame.of(subset(load_frame(study), where, without)[0], outputs)


def reproduce(
    folder: str | Path | None = None,
    *,
    runs: str | Path | None = None,
    scores: str | Path | None = None,
    costs: str | Path | None = None,
    matrix: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    draws: int = 10_000,
    on_step: Callable[[str], None] | None = None,
) -> Reproduction:
    """The five published reports again, each number beside what was printed.

    Args:
        folder: of runs.csv, paper_table_1.csv, paper_table_2.csv and kd_matrix_004.csv.
        runs, scores, costs, matrix: single tables or imported studies, instead of the folder's.
        out: write tables, pages, figures and LaTeX supplements below it.
        seed, draws: of the bootstrap.
        on_step: told of each report and figure before it is made.

    >>> kdlora.reproduce("reference").summary()
    """
    from kdlora.evidence.result import Rules
    from kdlora_reproductions import read_inputs
    from kdlora_reproductions import reproduce as regenerate
    from kdlora_reproductions.write import write_reports

    on_step = on_step or (lambda step: None)
    inputs = read_inputs(folder, runs=runs, scores=scores, costs=costs, matrix=matrix)
    found = regenerate(inputs, seed=seed, rules=Rules(draws=draws), on_step=on_step)
    if out is not None:
        write_reports(found, out, on_step=on_step)
    return found
