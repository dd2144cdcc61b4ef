"""What a claim says, in words: its scope, what was taken as a sample, its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from kdlora.evidence.claim import Claim
from kdlora.evidence.estimator import SEED_CORRELATION
from kdlora.evidence.result import SCOPES, TASKS_LIKE_THESE, TRAINED_MODELS, Scope
from kdlora.vocabulary.metric import POINTS

if TYPE_CHECKING:
    from kdlora.evidence.compare import Comparison


def claim_notes(claim: Claim) -> list[str]:
    """What a reader of a claim must know of its sample."""
    notes: list[str] = []
    if not claim.made:
        return notes
    if claim.basis.left_out:
        left_out = ", ".join(claim.basis.left_out)
        why = (
            "no stored predictions" if claim.scope == TRAINED_MODELS
            else "one seed tells nothing of other seeds"
        )  # fmt: skip
        notes.append(f"left out of the claim {scope_text(claim)}: {left_out} ({why})")
    if not claim.basis.seeds_measured:
        notes.append(ALLOWANCE)
    return notes


# What stands for the common effect of seeds where it could not be measured.
ALLOWANCE = (
    "an effect of the seed common to all tasks is allowed for, with a correlation of "
    f"{SEED_CORRELATION:g}, and not measured: that needs three seeds"
)


def scope_text(claim: Claim) -> str:
    """What the claim is about, as it stands in a sentence."""
    if claim.scope == TASKS_LIKE_THESE:
        return "on tasks like these"
    if claim.scope == TRAINED_MODELS:
        return "as trained here, on texts like these"
    tasks = claim.basis.tasks
    return f"on {tasks[0]}" if len(tasks) == 1 else "on these tasks"


def sample_text(claim: Claim) -> str:
    """What was taken as a sample, with its numbers."""
    basis = claim.basis
    counts = {"tasks": len(basis.tasks), "seeds": basis.n_seeds, "texts": basis.n_texts}
    parts = [
        f"{counts[name]:,} {name if counts[name] != 1 else name[:-1]}" for name in basis.sampled
    ]
    return " and ".join(parts)


def sentence(c: Comparison) -> str:
    """The verdict as a sentence, with its numbers, its scope and what was taken as a sample."""
    claim = c.claim
    if claim.verdict == "cannot be said":
        return f"{c.a} against {c.b}: cannot be said. {claim.cannot[:1].upper()}{claim.cannot[1:]}."
    unit, scope = "pp" if c.unit == POINTS else c.unit, scope_text(claim)
    numbers = (
        f"{claim.difference:+.2f} {unit} [{claim.low:.2f}, {claim.high:.2f}], "
        f"{sample_text(claim)}, p {claim.p_corrected:.2g}"
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
