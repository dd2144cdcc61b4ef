"""The claims that a verdict can rest on: what each is about, and what was taken as a sample.

A verdict is one of four words; "undecided" is what the data say when they say neither a difference
nor equality, and "cannot be said" is for designs that allow no such claim. Claims differ in what
was taken as a sample, so that the verdict would hold for another one:

- *tasks like these*: tasks, and seeds with what they have in common on all tasks;
- *these tasks* (or this one): seeds, and texts where the predictions are stored;
- *trained models*: texts only, for the very models that were trained; one run each suffices.

Everything else stays as it is, the encoder pairs always.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kdlora.evidence.result import THESE_TASKS, Result, Scope

Verdict = Literal["superior", "inferior", "equivalent", "undecided", "cannot be said"]
Sample = Literal["tasks", "seeds", "texts"]


@dataclass(frozen=True)
class Basis(Result):
    """What a claim rests on.

    sampled: what was taken as a sample; everything else stays as it is, the encoder pairs always.
    tasks: those that take part; left_out: those that have no error of their own.
    n_seeds: independent ones, those that share a trained run counted once. n_texts: 0 where texts
    are no sample. seeds_measured: False where a common effect of seeds is allowed for and not
    measured.
    """

    sampled: tuple[Sample, ...] = ()
    tasks: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    n_pairs: int = 0
    n_runs: int = 0
    n_seeds: int = 0
    n_texts: int = 0
    seeds_measured: bool = True


@dataclass(frozen=True)
class Claim(Result):
    """What is said of the mean difference in one scope.

    `low`, `high`: interval of confidence 1 - alpha, not corrected; `low_equivalence`,
    `high_equivalence`: that of 1 - 2 alpha, which lies within the margin where the two are
    equivalent. `p_corrected` is over the family of comparisons and carries the verdict.
    `detectable`: the smallest true difference that a single comparison of this design finds with
    the rules' power. `cannot`: why there is no claim, when there is none; then there are no numbers
    either.
    """

    scope: Scope
    basis: Basis = field(default_factory=Basis)
    difference: float | None = None
    se: float | None = None
    df: float | None = None
    low: float | None = None
    high: float | None = None
    low_equivalence: float | None = None
    high_equivalence: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    p_equivalence: float | None = None
    p_equivalence_corrected: float | None = None
    detectable: float | None = None
    verdict: Verdict = "cannot be said"
    cannot: str = ""

    @property
    def made(self) -> bool:
        return not self.cannot


def leading(claims: dict[Scope, Claim]) -> Claim:
    """The widest claim that the design allows; where it allows none, the one that lacks least."""
    made = [claim for claim in claims.values() if claim.made]
    return made[0] if made else claims[THESE_TASKS]
