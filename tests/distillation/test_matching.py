from __future__ import annotations

import numpy as np
import pytest
import torch

from kdlora.distillation.hidden_states import StateShape
from kdlora.distillation.matching import Matching, hidden_mse, plan_matching, relation_kl
from kdlora.errors import ModelError
from kdlora.spec.distillation import Signals

STUDENT, TEACHER = StateShape(3, 24, 4, "bert"), StateShape(12, 48, 12, "roberta")
MASK = torch.tensor([[True, True, True], [True, False, False]])


def plan(student=STUDENT, teacher=TEACHER, **signals):
    return plan_matching(Signals.model_validate(signals), student, teacher)


def made(matched, seed=0) -> Matching:
    return Matching(matched, lambda index: {}, student_width=24, teacher_width=48, seed=seed)


def test_layer_maps():
    assert plan(hidden=1.0).hidden == ((1, 4), (2, 8), (3, 12))
    assert plan(hidden={"layers": "last"}).hidden == ((3, 12),)
    found = plan(hidden={"layers": {0: 0, -1: -2, 2: 5}})
    assert found.hidden == ((0, 0), (2, 5), (3, 11))
    assert found.student.hidden == (0, 2, 3)
    assert found.teacher.hidden == (0, 5, 11)
    assert plan(StateShape(4, 24, 4, "bert"), StateShape(6, 24, 4, "bert"), hidden=1.0).hidden == (
        (1, 2), (2, 3), (3, 5), (4, 6),
    )  # fmt: skip


def test_relations_take_the_projections_they_need():
    found = plan(relations={"pairs": ["qk", "vv"], "teacher_layer": 10, "heads": 6})
    assert (found.student.layer, found.teacher.layer) == (3, 10)
    assert found.student.projections == found.teacher.projections == "qkv"
    assert found.heads == 6
    assert plan(relations={"pairs": ["vv"]}).student.projections == "v"
    assert plan(relations=1.0).heads == 12


def test_all_problems_come_together():
    with pytest.raises(ModelError) as caught:
        plan(
            teacher=StateShape(12, 48, 10, "alien"),
            hidden={"layers": {4: 1, 3: 13, -1: 2}},
            relations={"student_layer": -4},
        )
    text = str(caught.value)
    for part in (
        "student layer 4: the bert encoder has 3",
        "teacher layer 13: the alien encoder has 12",
        "a student layer is named twice",
        "relations: student layer -4",
        "10 (as many as the teacher has attention heads) does not divide the widths 24 and 48",
        "these do: 1, 2, 3, 4, 6, 8, 12, 24",
        "'alien' model",
    ):
        assert part in text


def states(seed: int, width: int, *names: str) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return {n: torch.from_numpy(rng.normal(0, 1, (2, 3, width)).astype(np.float32)) for n in names}


def test_the_terms_are_weighted_and_projected():
    matched = plan(
        hidden={"weight": 3.0, "layers": {1: 4, 3: 12}},
        relations={"weight": 0.5, "pairs": ["qk", "vv"], "heads": 4},
    )
    module = made(matched)
    ours = states(0, 24, "hidden.1", "hidden.3", "q", "k", "v")
    theirs = states(1, 48, "hidden.4", "hidden.12", "q", "k", "v")
    first, second = module.projectors
    hidden = hidden_mse(ours["hidden.1"] @ first.weight.T, theirs["hidden.4"], MASK)
    hidden = hidden + hidden_mse(ours["hidden.3"] @ second.weight.T, theirs["hidden.12"], MASK)
    relations = [
        relation_kl((ours[a], ours[b]), (theirs[a], theirs[b]), MASK, heads=4)
        for a, b in ("qk", "vv")
    ]
    expected = 3.0 * hidden / 2 + 0.5 * sum(relations)
    torch.testing.assert_close(module(ours, theirs, MASK), expected)
    assert module.parameter_count == 2 * 24 * 48


def test_a_batch_in_parts_has_the_mean_of_the_whole():
    matched = plan(hidden={"layers": "last"}, relations=1.0)
    module = made(matched)
    ours, theirs = states(0, 24, "hidden.3", "q", "k", "v"), states(1, 48, "hidden.12", *"qkv")
    whole = module(ours, theirs, MASK)
    for i in range(2):
        part = [{n: x[i : i + 1] for n, x in side.items()} for side in (ours, theirs)]
        torch.testing.assert_close(module(*part, MASK[i : i + 1])[0], whole[i])


def test_projectors_come_from_their_seed_and_only_where_widths_differ():
    matched = plan(hidden=1.0)
    before = torch.get_rng_state()
    one, two, other = made(matched, 1), made(matched, 1), made(matched, 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.projectors[0].weight, two.projectors[0].weight)
    assert not torch.equal(one.projectors[0].weight, other.projectors[0].weight)
    same = Matching(matched, lambda i: {}, student_width=24, teacher_width=24, seed=0)
    assert same.parameter_count == 0
