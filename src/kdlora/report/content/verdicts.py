"""How a comparison is worded: its estimate, interval, p and verdict, as the analysis gave them."""

from __future__ import annotations

from collections.abc import Sequence

from kdlora.evidence.compare import Comparison
from kdlora.evidence.questions import AGAINST, OF_COPIES
from kdlora.report import words as w


def verdict_text(c: Comparison) -> str:
    """A comparison as a sentence, with its estimate, interval, p and verdict."""
    claim = c.claim
    a, b = w.phrase(c.a), w.phrase(c.b)
    if claim.difference is None:
        return f"{w.sentence_case(a)} against {b}: cannot be said ({claim.cannot})."
    scope = "on tasks like these" if claim.scope == "beyond" else "on these tasks"
    numbers = f"{w.signed_points(claim.difference)}{w.span_text(claim.low, claim.high)}"
    return (
        f"{w.sentence_case(a)} against {b}: {numbers} over {w.plural(c.n_runs, 'matched run')}, "
        f"corrected p {w.p_text(claim.p_corrected)}; {verdict_name(c)} {scope}."
    )


def verdict_name(c: Comparison) -> str:
    if c.verdict == "equivalent":
        return f"equivalent within {c.rules.margin:g} {c.rules.margin_unit}"
    return c.verdict


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
