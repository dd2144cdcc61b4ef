"""How a comparison is worded: its estimate, interval, p, verdict and what it was tested on."""

from __future__ import annotations

from collections.abc import Sequence

from kdlora.evidence.claim import Claim
from kdlora.evidence.comparison import Comparison, narrower
from kdlora.evidence.questions import AGAINST, OF_COPIES
from kdlora.evidence.result import TRAINED_MODELS
from kdlora.evidence.sentences import sample_text, scope_text
from kdlora.report import words as w


def verdict_text(c: Comparison) -> str:
    """A comparison as a sentence: its estimate, interval, p, verdict and scope.

    Where the widest claim is undecided and a narrower one is not, that one is added.
    """
    a, b = w.phrase(c.a), w.phrase(c.b)
    if not c.claim.made:
        return f"{w.sentence_case(a)} against {b}: cannot be said ({c.claim.cannot})."
    text = f"{w.sentence_case(a)} against {b}: {claim_text(c, c.claim)}"
    return f"{text}{decided_text(c)}{flag_text(c)}."


def decided_text(c: Comparison) -> str:
    """What narrower claims decide where the widest one is undecided; "" elsewhere."""
    if c.verdict != "undecided":
        return ""
    decided = [claim for claim in narrower(c) if claim.verdict != "undecided"]
    return "".join(f"; {claim_text(c, claim)}" for claim in decided)


def flag_text(c: Comparison) -> str:
    """What is left of a difference without the runs that carry a health flag; "" without any."""
    if not c.n_flagged:
        return ""
    if c.unflagged is None:
        return ", with a flagged run in every matched pair"
    pairs = w.plural(c.n_flagged, "pair")
    return (
        f", but {w.signed_difference(c.unflagged, c.unit)} without the {pairs} with a flagged run"
    )


def claim_text(c: Comparison, claim: Claim) -> str:
    """A claim with its numbers, what was taken as a sample, and its verdict and scope."""
    assert claim.difference is not None
    return (
        f"{difference_text(c, claim)} over {sample_text(claim)}, "
        f"corrected p {w.p_text(claim.p_corrected)}; {verdict_name(c, claim)} {scope_text(claim)}"
    )


def difference_text(c: Comparison, claim: Claim) -> str:
    """The difference with the interval that its verdict rests on.

    An equivalence rests on the interval of two one-sided tests, which is the narrower one.
    """
    assert claim.difference is not None
    text = w.signed_difference(claim.difference, c.unit)
    text += w.span_text(claim.low, claim.high, c.unit)
    if claim.verdict == "equivalent":
        ends = (claim.low_equivalence, claim.high_equivalence)
        low, high = (w.in_unit(end, c.unit) for end in ends)
        text += f" (90 % interval {low} to {high})"
    return text


def verdict_name(c: Comparison, claim: Claim | None = None) -> str:
    verdict = (claim or c.claim).verdict
    if verdict == "equivalent":
        return f"equivalent within {c.rules.margin:g} {c.rules.margin_unit}"
    return verdict


def wider_text(found: Sequence[Comparison]) -> str:
    """What stays open where only the trained models can be spoken of; "" elsewhere."""
    alone = [c.these_tasks.cannot for c in found if c.claim.scope == TRAINED_MODELS]
    return f" Of the recipe nothing is said: {alone[0]}." if alone else ""


VERDICT_NOTE = (
    "A verdict is about the paired difference after correction within its question: over the "
    "comparisons that the question asks for, so that other models change nothing of it; a "
    "comparison of two questions is counted in the first. Undecided "
    "means that these runs cannot tell, not that the two are equal; equivalent means that a "
    "difference beyond the margin is ruled out."
)


def question_name(question: str) -> str:
    kind, against, reference = question.removesuffix(OF_COPIES).partition(AGAINST)
    copies = OF_COPIES if question.endswith(OF_COPIES) else ""
    name = f"{kind}{against}{w.phrase(reference)}" if against else kind
    return f"{w.sentence_case(name)}{copies}"


def told_apart(found: Sequence[Comparison]) -> list[Comparison]:
    return [c for c in found if c.verdict == "inferior"]
