"""Signals that look inside student and teacher: which layers meet, and the losses between them.

One value an example, padding left out, so that a batch in parts has the same mean as a whole one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from kdlora.distillation.hidden_states import StateShape, TeacherStates
from kdlora.errors import ModelError, Problems
from kdlora.models.checkpoints import seeded
from kdlora.models.families import FAMILIES
from kdlora.models.inner_states import Wanted
from kdlora.models.inner_states import unknown_projections as unknown
from kdlora.spec.distillation import Hidden, Relations, Signals


def padded(tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Ragged states [all tokens, d], text by text, at the true places of mask [b, l]: [b, l, d]."""
    out = tokens.new_zeros(*mask.shape, tokens.shape[-1])
    return out.masked_scatter_(mask[..., None], tokens)  # an index by a mask waits for the device


def hidden_mse(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of hidden states [b, l, d] over a text's tokens and dimensions, [b].

    Source: Jiao et al. (2020), "TinyBERT: Distilling BERT for natural language understanding".
    """
    return _mean_of_tokens((student - teacher).square().mean(-1), mask)


def relation_kl(
    student: tuple[torch.Tensor, torch.Tensor],
    teacher: tuple[torch.Tensor, torch.Tensor],
    mask: torch.Tensor,
    *,
    heads: int,
) -> torch.Tensor:
    """``KL(teacher's || student's relations)``, mean over relation heads and a text's tokens, [b].

    A relation is the softmax of the scaled products of two projections of the tokens, such as
    queries with queries. Widths may differ, since each side is split into the same number of
    relation heads. Sources: Wang et al. (2020), "MiniLM" (queries with keys, values with values,
    last layer); Wang et al. (2021), "MiniLMv2" (each with itself, any number of heads). Position
    terms that some families add to their attention scores are not part of it.

    Args:
        student, teacher: two projections [b, l, d] each, the rows and the columns of the relation.
        mask: [b, l], true where there is a token.
        heads: a divisor of both widths.
    """
    ours, theirs = _relation(*student, mask, heads), _relation(*teacher, mask, heads)
    keys = mask[:, None, None, :]
    gap = (theirs - ours).masked_fill(~keys, 0.0)
    divergence = (theirs.exp() * gap).sum(-1).mean(1)
    return _mean_of_tokens(divergence, mask)


def _relation(
    rows: torch.Tensor, columns: torch.Tensor, mask: torch.Tensor, heads: int
) -> torch.Tensor:
    """Logarithms of the relation [b, heads, l, l]; -inf towards padding."""
    a, b = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (rows, columns))
    scores = a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5
    return scores.masked_fill(~mask[:, None, None, :], -torch.inf).log_softmax(-1)


def _mean_of_tokens(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of values [b, l] over the true places of a mask, [b]."""
    return values.masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)


@dataclass(frozen=True)
class MatchPlan:
    """Which states meet. `hidden` are (student layer, teacher layer), 0 the embeddings' output."""

    student: Wanted
    teacher: Wanted
    hidden: tuple[tuple[int, int], ...]
    relations: tuple[str, ...]
    heads: int
    hidden_weight: float
    relations_weight: float


def plan_matching(signals: Signals, student: StateShape, teacher: StateShape) -> MatchPlan:
    """Resolve the layer map and the relation heads. Raises ModelError with every problem."""
    problems = Problems("distillation.signals")
    pairs = _hidden_pairs(signals.hidden, student, teacher, problems) if signals.hidden else ()
    ours, theirs, heads = None, None, 1
    kinds = ""
    if signals.relations is not None:
        term = signals.relations
        ours = _layer(term.student_layer, student, "relations: student", problems, least=1)
        theirs = _layer(term.teacher_layer, teacher, "relations: teacher", problems, least=1)
        heads = _heads(term, student, teacher, problems)
        kinds = "".join(k for k in "qkv" if any(k in pair for pair in term.pairs))
        for shape in dict.fromkeys((student.family, teacher.family)):
            if shape not in FAMILIES:
                problems.add(unknown(shape))
    problems.raise_any(ModelError)
    return MatchPlan(
        student=Wanted(_distinct(s for s, _ in pairs), ours, kinds),
        teacher=Wanted(_distinct(t for _, t in pairs), theirs, kinds),
        hidden=pairs,
        relations=signals.relations.pairs if signals.relations else (),
        heads=heads,
        hidden_weight=signals.hidden.weight if signals.hidden else 0.0,
        relations_weight=signals.relations.weight if signals.relations else 0.0,
    )


class Matching(nn.Module):
    """The terms on inner states; its parameters are the projectors, trained beside the student.

    A projector is a linear map without bias from the student's width to the teacher's, one for
    each pair of layers, and only where the widths differ (as in TinyBERT). It is no part of the
    student and is thrown away after training.
    """

    def __init__(
        self,
        plan: MatchPlan,
        teacher: TeacherStates,
        *,
        student_width: int,
        teacher_width: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.plan, self.teacher = plan, teacher
        with seeded(seed):
            self.projectors = nn.ModuleList(
                nn.Linear(student_width, teacher_width, bias=False)
                if student_width != teacher_width
                else nn.Identity()
                for _ in plan.hidden
            )

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def terms(
        self, ours: Mapping[str, torch.Tensor], attention_mask: torch.Tensor, index: np.ndarray
    ) -> torch.Tensor:
        """The weighted terms [b] of the training rows at `index`, of which the student has the
        states `ours`, each [b, l, width]."""
        mask = attention_mask.bool()
        theirs = {name: padded(x.float(), mask) for name, x in self.teacher(index).items()}
        return self(ours, theirs, mask)

    def forward(
        self,
        ours: Mapping[str, torch.Tensor],
        theirs: Mapping[str, torch.Tensor],
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """The weighted terms [b] from both sides' states [b, l, width].

        Hidden-state terms are averaged over the pairs of layers, so that their weight means the
        same for any number of them; relation terms are added up, as in both papers.
        """
        total = torch.zeros(len(mask), device=mask.device)
        for (s, t), project in zip(self.plan.hidden, self.projectors, strict=True):
            value = hidden_mse(project(ours[f"hidden.{s}"].float()), theirs[f"hidden.{t}"], mask)
            total = total + self.plan.hidden_weight / len(self.plan.hidden) * value
        for pair in self.plan.relations:
            a, b = pair[0], pair[1]
            value = relation_kl(
                (ours[a].float(), ours[b].float()),
                (theirs[a], theirs[b]),
                mask,
                heads=self.plan.heads,
            )
            total = total + self.plan.relations_weight * value
        return total


def _hidden_pairs(
    term: Hidden, student: StateShape, teacher: StateShape, problems: Problems
) -> tuple[tuple[int, int], ...]:
    """Layers that meet, in the student's order."""
    if term.layers == "last":
        return ((student.layers, teacher.layers),)
    if term.layers == "uniform":  # every layer of the student, spread over the teacher's
        return tuple(
            (i, math.floor(i * teacher.layers / student.layers + 0.5))
            for i in range(1, student.layers + 1)
        )
    assert isinstance(term.layers, dict)
    pairs = [
        (
            _layer(s, student, "hidden.layers: student", problems),
            _layer(t, teacher, "hidden.layers: teacher", problems),
        )
        for s, t in term.layers.items()
    ]
    if len({s for s, _ in pairs}) < len(pairs):
        problems.add("hidden.layers: a student layer is named twice")
    return tuple(sorted(pairs))


def _layer(number: int, shape: StateShape, what: str, problems: Problems, *, least: int = 0) -> int:
    """A layer's number counted from 1; -1 is the last one."""
    found = shape.layers + 1 + number if number < 0 else number
    if not least <= found <= shape.layers:
        problems.add(f"{what} layer {number}: the {shape.family} encoder has {shape.layers}")
    return found


def _heads(term: Relations, student: StateShape, teacher: StateShape, problems: Problems) -> int:
    heads = term.heads or teacher.heads
    if student.width % heads or teacher.width % heads:
        most = math.gcd(student.width, teacher.width)
        fitting = [str(n) for n in range(1, most + 1) if most % n == 0 and n <= 64]
        given = "" if term.heads else " (as many as the teacher has attention heads)"
        problems.add(
            f"relations.heads: {heads}{given} does not divide the widths {student.width} and "
            f"{teacher.width} of student and teacher; these do: {', '.join(fitting)}"
        )
    return heads


def _distinct(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers))
