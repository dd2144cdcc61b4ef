"""What a claim says, in words: its scope, what was taken as a sample, its numbers."""

from __future__ import annotations

from kdlora.evidence.claim import Claim
from kdlora.evidence.estimator import SEED_CORRELATION
from kdlora.evidence.result import TASKS_LIKE_THESE, TRAINED_MODELS


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

# To be said of an interquartile mean where tasks have unlike many cells.
POOLED = (
    "means weigh tasks alike; the interquartile mean is over all cells, so that a task with more "
    "of them weighs more"
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
