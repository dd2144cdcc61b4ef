"""The questions that a study answers, and its comparisons made question by question.

P-values are corrected over the comparisons that answer one question together: do adapters on the
teacher cost something, do distilled students, does distillation help, what does the small encoder
cost. So an arm that a question does not ask about changes nothing of its answer, and a comparison
has one verdict wherever it is shown: in the question that first asks for it.

Copies of an arm (another rank, another temperature) are asked about apart from the arms themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from kdlora.errors import InputError, Problems, did_you_mean
from kdlora.evidence.compare import compare_many
from kdlora.evidence.comparison import Comparison
from kdlora.evidence.costs import budget_matched
from kdlora.evidence.result import Rules
from kdlora.evidence.scores import KEYS, Selection, usable_runs
from kdlora.evidence.teacher import reference_arm
from kdlora.records.tidy import StudyFrame
from kdlora.vocabulary.arm import Arm

Pair = tuple[str, str]  # a, b

AGAINST = " against "  # between who is asked about and the reference
ON_TEACHER = "distilled student and its adaptation on the teacher"
DISTILLATION = "gain of distillation"
SMALLER = "smaller encoder"
CHANGED = "changed settings"
OF_COPIES = f", {CHANGED}"  # behind a question that is asked of copies


def questions(arms: Sequence[str], reference: str) -> dict[str, list[Pair]]:
    """The comparisons a study is made for, as far as its arms allow: question -> (a, b).

    Each kind of arm against the reference; what distillation adds to a student; what the small
    encoder costs under the same adaptation. The last two are told apart only where the controls
    exist.
    """
    known = {arm: Arm.read(arm) for arm in arms}
    asked: dict[str, list[Pair]] = {
        f"{kind}{AGAINST}{reference}": [] for kind in dict.fromkeys(_KINDS.values())
    }
    for arm in known:
        if arm != reference:
            asked[f"{_kind(known[arm])}{AGAINST}{reference}"].append((arm, reference))
    students = {arm: read for arm, read in known.items() if read.is_student}
    distilled = {arm: read for arm, read in students.items() if read.is_distilled}
    asked[DISTILLATION] = [
        (arm, str(control)) for arm, read in distilled.items() for control in read.controls()
    ]
    asked[ON_TEACHER] = [(arm, str(read.as_teacher())) for arm, read in distilled.items()]
    asked[SMALLER] = [
        (arm, str(read.as_teacher())) for arm, read in students.items() if not read.is_distilled
    ]
    copies = {arm for arm, read in known.items() if read.label and str(read.plain) in known}
    found: dict[str, list[Pair]] = {}
    for question, pairs in asked.items():
        for name, of_copies in ((question, False), (question + OF_COPIES, True)):
            own = [(a, b) for a, b in pairs if b in known and (a in copies) == of_copies]
            if own:
                found[name] = own
    if copies:
        found[CHANGED] = [(arm, str(known[arm].plain)) for arm in known if arm in copies]
    return found


_KINDS = {
    ("teacher", False): "teachers",
    ("student", False): "students",
    ("student", True): "distilled students",
    ("baseline", False): "baselines",
    ("", False): "models",  # of imported results, whose names say no role
}


def _kind(arm: Arm) -> str:
    return _KINDS.get((arm.role, arm.is_distilled), _KINDS["", False])


def ask(
    study: StudyFrame,
    asked: Mapping[str, Sequence[Pair]],
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    rules: Rules | None = None,
) -> dict[str, tuple[Comparison, ...]]:
    """Question -> its comparisons, each made once: where two questions ask for the same, both show
    the result of the first.
    """
    made: dict[Pair, Comparison] = {}
    for question, pairs in _families(asked).items():
        found = compare_many(study, pairs, rng=rng, keys=keys, score=score, rules=rules)
        made |= {p: replace(c, question=question) for p, c in zip(pairs, found, strict=True)}
    return {question: tuple(made[pair] for pair in pairs) for question, pairs in asked.items()}


def ask_for(
    study: StudyFrame,
    wanted: Sequence[Pair],
    asked: Mapping[str, Sequence[Pair]],
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    rules: Rules | None = None,
) -> tuple[Comparison, ...]:
    """The comparisons in `wanted`, with the verdicts that they have wherever the study is shown:
    each is corrected within the question that asks for it, what no question asks for together.
    """
    families = {
        question: pairs for question, pairs in _families(asked).items()
        if not set(pairs).isdisjoint(wanted)
    }  # fmt: skip
    known = {pair for pairs in families.values() for pair in pairs}
    if rest := [pair for pair in dict.fromkeys(wanted) if pair not in known]:
        families[""] = rest
    made: dict[Pair, Comparison] = {}
    for question, pairs in families.items():
        found = compare_many(study, pairs, rng=rng, keys=keys, score=score, rules=rules)
        made |= {p: replace(c, question=question) for p, c in zip(pairs, found, strict=True)}
    return tuple(made[pair] for pair in wanted)


def compare_named(
    frame: StudyFrame | pd.DataFrame,
    a: Sequence[str],
    b: Sequence[str],
    *,
    rng: np.random.Generator,
    reference: str | None = None,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    rules: Rules | None = None,
) -> tuple[Comparison, ...]:
    """All of `a` (default every other arm) against all of `b` (default the reference).

    Raises InputError, all at once, for arms that the study does not know.
    """
    study = StudyFrame.of(frame)
    if not any("rank=" in text for text in (*a, *b)):
        study = study.ranks_apart()
    wanted, reference = _named(study, a, b, reference, score)
    finished = set(usable_runs(study, score)[0]["arm"])
    asked = questions([arm for arm in _arms(study.table) if arm in finished], reference)
    return ask_for(study, wanted, asked, rng=rng, keys=keys, score=score, rules=rules)


def compare_at_budget(
    frame: StudyFrame | pd.DataFrame,
    a: Sequence[str],
    b: Sequence[str],
    budget: str,
    *,
    rng: np.random.Generator,
    keys: Sequence[str] = KEYS,
    score: str = "score",
    rules: Rules | None = None,
) -> tuple[Comparison, ...]:
    """One arm against one other over their runs that cost alike, `budget` being the cost.

    Raises InputError where there are none, and for more arms.
    """
    study = StudyFrame.of(frame)
    wanted, _ = _named(study, a, b, None, score)
    if len(wanted) > 1:
        raise InputError("a budget picks runs for one comparison: give one a and one b")
    study, found = budget_matched(study, *wanted[0], column=budget, keys=keys)
    if found.cannot:
        raise InputError(f"no comparison at the same budget: {found.cannot}")
    return compare_many(study, wanted, rng=rng, keys=keys, score=score, rules=rules)


def _named(
    study: StudyFrame, a: Sequence[str], b: Sequence[str], reference: str | None, score: str
) -> tuple[list[Pair], str]:
    """The comparisons that are named, and the study's reference."""
    arms = _arms(study.table)
    finished = set(usable_runs(study, score)[0]["arm"])
    known = [arm for arm in arms if arm in finished]
    reference = reference or reference_arm(study.table, known or None)
    b = list(b) or [reference]
    a = list(a) or [arm for arm in arms if arm not in b]
    check_arms(study.table, [*a, *b])
    wanted = [(x, y) for x in a for y in b if x != y]
    if not wanted:
        raise InputError("a and b name the same arm: there is nothing to compare")
    return wanted, reference


def _arms(table: pd.DataFrame) -> list[str]:
    return sorted(map(str, table["arm"].dropna().unique()))


def check_arms(table: pd.DataFrame, named: Sequence[str]) -> None:
    """Raise InputError, all at once, for names that mean nothing in a study."""
    problems, arms = Problems(), _arms(table)
    for name in named:
        selection = Selection.parse(name)
        if not selection.arms(arms):
            problems.add(f"no arm '{name}' in this study.{did_you_mean(name, arms)}")
        for fault in selection.faults(table):
            problems.add(f"'{name}': {fault}")
    problems.raise_any()


def _families(asked: Mapping[str, Sequence[Pair]]) -> dict[str, list[Pair]]:
    """Question -> the comparisons that it is the first to ask for, which are corrected together."""
    first: dict[Pair, str] = {}
    for question, pairs in asked.items():
        for pair in pairs:
            first.setdefault(pair, question)
    families: dict[str, list[Pair]] = {}
    for pair, question in first.items():
        families.setdefault(question, []).append(pair)
    return families
