"""What to measure next where a choice rests on an estimate, on few seeds or on few examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from kdlora.choice.constraints import worst_scores
from kdlora.choice.formats import ESTIMATED, Cost
from kdlora.choice.recommendation import JudgedForm, Recommendation, Step
from kdlora.evidence.power import detection_power

SURE = 0.95  # below this probability more data are asked for
MOST_SEEDS = 30
POWER = 0.8
CLOSE = 1.25  # an estimate within this factor of a limit may fall on either side


def what_next(
    result: Recommendation,
    run_scores: Mapping[str, float],
    *,
    can_export: bool = True,
) -> tuple[Step, ...]:
    """Steps in order of how much they would change; none where the choice is clear and measured."""
    steps = _measure(result) if can_export else []
    if result.choice is None:
        return tuple(steps)
    if result.probability is not None and result.probability >= SURE:
        return tuple(steps)
    return (*steps, *_more_data(result, result.choice, run_scores))


def to_use(result: Recommendation) -> tuple[Step, ...]:
    """Commands that put the choice to work; none where a baseline does as well."""
    if result.choice is None or not result.beats_baseline:
        return ()
    one = result.choice.candidate
    place = one.folder or one.ship_folder
    return (
        Step("predict", f"Try {one.title} on a text of yours, or on a file of them.",
             f'kdlora predict {place} --text "..."'),
        Step("serve", "Answer with it over HTTP.", f"kdlora serve {place}"),
    )  # fmt: skip


def _measure(result: Recommendation) -> list[Step]:
    """Exports that would turn a decisive estimate into a measurement."""
    wanted: dict[tuple[str, str], str] = {}
    folders = {c.ship: c.ship_folder or c.ship for c in (j.candidate for j in result.considered)}
    if result.choice is not None and (why := _estimated(result.choice, result)):
        one = result.choice.candidate
        wanted[one.ship, one.form] = f"the {why} of {one.title} are estimated"
    for judged in result.considered:
        one = judged.candidate
        # Only what estimates keep out, and only just: a measurement could let it in.
        costs = {
            "max_size_mb": one.size_mb,
            "max_latency_ms": one.latency_ms(result.constraints.latency),
        }
        only_close = judged.broken and all(
            b.constraint in costs
            and costs[b.constraint].basis == ESTIMATED
            and b.excess <= CLOSE - 1
            for b in judged.broken
        )  # fmt: skip
        if only_close and (result.choice is None or _would_win(judged, result)):
            wanted.setdefault(
                (one.ship, one.form), f"{one.title} is kept out only by an estimate near its limit"
            )
    found = []
    for (run, form), why in list(wanted.items())[:2]:
        runtime, _, quantization = form.partition("-")
        source = Path(folders[run])
        to = source.parent.parent / "exports" / run  # where `recommend` looks
        command = f"kdlora export {source} --to {to} --format {runtime}"
        command += f" --quantize {quantization}" if quantization else ""
        found.append(Step("export", f"Export it, for {why}.", command))
    return found


def _estimated(judged: JudgedForm, result: Recommendation) -> str:
    one = judged.candidate
    costs: dict[str, Cost] = {"size": one.size_mb}
    costs["latency"] = one.latency_ms(result.constraints.latency)
    names = [name for name, cost in costs.items() if cost.basis == ESTIMATED]
    if one.quantization != "none" and one.gate == "not measured":
        names.append("score after quantisation")
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _would_win(judged: JudgedForm, result: Recommendation) -> bool:
    """Whether a candidate kept out would be chosen if it fitted."""
    return result.constraints.prefer == "score" and (judged.difference or 0.0) > 0


def _more_data(
    result: Recommendation, choice: JudgedForm, run_scores: Mapping[str, float]
) -> list[Step]:
    """Seeds or examples that would tell the choice from what stands against it."""
    others = [j for j in result.considered if j.candidate.model != choice.candidate.model]
    rival = max(others, key=lambda j: j.p_best or 0.0, default=None)
    scale = result.scored_by.upward
    own = _by_seed(choice, run_scores, scale)
    if rival is not None and (rival.p_best or 0) > 0.5 * (1 - (choice.p_best or 0)):
        against = f"{rival.candidate.title}"
        other = _by_seed(rival, run_scores, scale)
        per_seed = [own[s] - other[s] for s in own if s in other]
        gap = abs(rival.difference or 0.0)
    else:
        against = "the limit of the score"
        per_seed = list(own.values())
        gap = _margin(choice, result, scale)
    found = []
    if len(per_seed) < 2:
        found.append(
            Step(
                "seeds",
                "Run more seeds, at least 3 of each: with one, the spread between seeds is not "
                f"known, and {choice.candidate.title} against {against} cannot be judged beyond "
                "these two trained models.",
                seeds=3,
            )
        )
    else:
        spread = float(np.std(per_seed, ddof=1))
        difference, between = _amount(gap, result), _amount(spread, result)
        need = seeds_to_tell(gap, spread)
        have = len(per_seed)
        if need is None:
            text = (
                f"More seeds will hardly tell {choice.candidate.title} from {against}: the "
                f"difference is {difference}, the spread between seeds {between}, so more than "
                f"{MOST_SEEDS} would be needed. Take the cheaper one."
            )
            found.append(Step("seeds", text))
        elif need > have:
            text = (
                f"Run {need} seeds ({need - have} more) of {choice.candidate.title} and of "
                f"{against}: a difference of {difference} with a spread of {between} between "
                f"seeds is then found with a power of {POWER:.0%}."
            )
            found.append(Step("seeds", text, seeds=need))
    return [*found, *_examples(result, rival, gap)]


def _amount(difference: float, result: Recommendation) -> str:
    one = result.scored_by
    return f"{difference:.{one.decimals + 1}f} {one.unit}"


def _by_seed(judged: JudgedForm, run_scores: Mapping[str, float], scale: float) -> dict[int, float]:
    one = judged.candidate
    return {s: scale * run_scores[r] for s, r in zip(one.seeds, one.run_ids, strict=True)}


def _margin(choice: JudgedForm, result: Recommendation, scale: float) -> float:
    """How far the choice is above the nearest limit of the score."""
    worst = worst_scores(result.constraints, result.scored_by, result.drops_from.score)
    room = [scale * (choice.candidate.score - score) for score in worst.values()]
    return max(0.0, min(room, default=0.0))


def seeds_to_tell(gap: float, spread: float, *, alpha: float = 0.05) -> int | None:
    """Seeds with which a paired t test finds `gap`, given the spread (SD) of it between seeds.

    None if more than `MOST_SEEDS` would be needed.
    """
    if gap <= 0:
        return None
    if spread == 0:
        return 2
    for n in range(2, MOST_SEEDS + 1):
        if detection_power(gap, spread / math.sqrt(n), n - 1, alpha) >= POWER:
            return n
    return None


def _examples(result: Recommendation, rival: JudgedForm | None, gap: float) -> list[Step]:
    """How many selection rows would tell the gap apart, were the seeds no matter."""
    if not result.n_examples or rival is None or gap <= 0 or rival.difference_low is None:
        return []
    assert rival.difference_high is not None
    z = float(stats.norm.ppf(0.975))
    error = (rival.difference_high - rival.difference_low) / (2 * z)
    found = float(z + stats.norm.ppf(POWER)) * error
    need = math.ceil(result.n_examples * (found / gap) ** 2)
    if need <= result.n_examples:
        return []
    text = (
        f"The selection split has {result.n_examples:,} rows, with which a difference of "
        f"{_amount(found, result)} is found as a rule; for {_amount(gap, result)} it takes "
        f"about {need:,}"
    )
    text += ". Raise data.selection_min, or label more." if need < 1_000_000 else ": out of reach."
    return [Step("examples", text, examples=need)]
