"""A comparison of two arms: its claims by scope, the descriptions beside them, and its sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from kdlora.evidence.claim import Claim, Verdict, leading
from kdlora.evidence.pairing import Matched, cells_used
from kdlora.evidence.power import Components
from kdlora.evidence.result import (
    SCOPES,
    TASKS_LIKE_THESE,
    THESE_TASKS,
    Result,
    Rules,
    Scope,
    plain,
)
from kdlora.evidence.sentences import sample_text, scope_text
from kdlora.vocabulary.metric import POINTS
from kdlora.vocabulary.p_value import p_text


@dataclass(frozen=True)
class Level(Result):
    """Differences of one level (a minus b), each taken as an independent value.

    `low`, `high`: interval of the mean over these values (the bootstrap, or Student's for few);
    `low_tasks`, `high_tasks`: the same with whole tasks as units (runs and blocks only).
    """

    level: str
    n: int
    mean: float | None = None
    median: float | None = None
    sd: float | None = None
    d_z: float | None = None
    rank_biserial: float | None = None
    wins: int = 0
    ties: int = 0
    losses: int = 0
    t: float | None = None
    p_t: float | None = None
    p_wilcoxon: float | None = None
    p_permutation: float | None = None
    permutations: int = 0  # drawn patterns; 0 when all were listed
    low: float | None = None
    high: float | None = None
    low_tasks: float | None = None
    high_tasks: float | None = None
    cannot: str = ""


@dataclass(frozen=True)
class Comparison(Result):
    """Arm a against arm b over the cells they share. Positive differences: a is better.

    `only_a`, `only_b`: cells that the other side lacks, which are not used. `unequal`: what else
    than the arm differs between paired runs. `claims` are those of every scope, the widest first.
    `n_flagged`: paired cells of which a run carries a health flag that is more than information;
    `unflagged` is the difference over the others, None where there are none.
    `question`: what it answers together with those of its family, where it is one of a study's own
    (see `questions`).
    """

    a: str
    b: str
    score: str
    unit: str
    keys: tuple[str, ...]
    n_runs: int
    n_blocks: int
    n_tasks: int
    only_a: int
    only_b: int
    mean_a: float | None
    mean_b: float | None
    levels: dict[str, Level]
    claims: dict[Scope, Claim]
    components: Components | None
    by_task: dict[str, float]
    family_size: int
    rules: Rules
    notes: tuple[str, ...]
    matched: Matched = field(repr=False, compare=False)
    unequal: tuple[str, ...] = ()
    question: str = ""
    n_flagged: int = 0
    unflagged: float | None = None

    @property
    def claim(self) -> Claim:
        """The widest claim that the design allows: it carries the verdict."""
        return leading(self.claims)

    @property
    def tasks_like_these(self) -> Claim:
        return self.claims[TASKS_LIKE_THESE]

    @property
    def these_tasks(self) -> Claim:
        return self.claims[THESE_TASKS]

    @property
    def verdict(self) -> Verdict:
        return self.claim.verdict

    def to_dict(self) -> dict:
        """Also the verdict, the sentence and the cells used, as block -> other keys' values."""
        return {
            **super().to_dict(),
            "verdict": self.verdict,
            "scope": self.claim.scope,
            "sentence": sentence(self),
            "cells": plain(cells_used(self.matched)),
        }


def sentence(c: Comparison) -> str:
    """The verdict as a sentence, with its numbers, its scope and what was taken as a sample."""
    claim = c.claim
    if claim.verdict == "cannot be said":
        return f"{c.a} against {c.b}: cannot be said. {claim.cannot[:1].upper()}{claim.cannot[1:]}."
    assert claim.p_corrected is not None
    unit, scope = "pp" if c.unit == POINTS else c.unit, scope_text(claim)
    numbers = (
        f"{claim.difference:+.2f} {unit} [{claim.low:.2f}, {claim.high:.2f}], "
        f"{sample_text(claim)}, p {p_text(claim.p_corrected)}"
    )
    if claim.verdict == "undecided":
        seen = f"{100 * c.rules.power:.0f} % power from {claim.detectable:.1f} {unit} on"
        text = f"{c.a} and {c.b}: undecided {scope} ({numbers}; {seen})"
    elif claim.verdict == "equivalent":
        text = f"{c.a} is equivalent to {c.b} within ±{c.rules.margin:g} {unit} {scope} ({numbers}"
        if leaves_margin(c):
            text += f"; 90 % interval [{claim.low_equivalence:.2f}, {claim.high_equivalence:.2f}]"
        text += ")"
    else:
        text = f"{c.a} is {claim.verdict} to {c.b} {scope} ({numbers})"
    if claim.verdict == "undecided":
        text += "".join(
            f"; {scope_text(other)}: {other.verdict}"
            for other in narrower(c)
            if other.verdict != "undecided"
        )
    if c.n_flagged:
        runs = f"{c.n_flagged} of {c.n_runs} matched runs"
        text += (
            f"; every one of the {c.n_runs} matched runs carries a health flag"
            if c.unflagged is None
            else f"; without the {runs} that carry a health flag {c.unflagged:+.2f} {unit}"
        )
    return text + "."


def narrower(c: Comparison) -> list[Claim]:
    """The claims that were made besides the leading one."""
    return [claim for claim in c.claims.values() if claim.made and claim is not c.claim]


def made_scopes(found: Iterable[Comparison]) -> list[Scope]:
    """The scopes in which any of these comparisons has a claim, the widest first."""
    claims = [c.claims for c in found]
    return [scope for scope in SCOPES if any(own[scope].made for own in claims)]


def leaves_margin(c: Comparison) -> bool:
    """Whether the interval of an equivalence leaves the margin, which its own one does not.

    Two one-sided tests at alpha are the interval of confidence 1 - 2 alpha (Schuirmann 1987).
    """
    claim = c.claim
    if claim.verdict != "equivalent" or claim.low is None or claim.high is None:
        return False
    return max(-claim.low, claim.high) > c.rules.margin
