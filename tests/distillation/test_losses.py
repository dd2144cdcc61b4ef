from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from kdlora.distillation.losses import hard_loss, kd_kl, make_loss
from kdlora.spec.study import Distillation
from kdlora.spec.tasks import TASKS

RTE, STSB = TASKS["rte"], TASKS["stsb"]


def logits(seed: int, rows: int = 7, classes: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (rows, classes)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_kl_equals_its_definition(temperature):
    s, t = logits(1).numpy(), logits(2).numpy()
    p = softmax(t / temperature, axis=1)
    expected = p * (log_softmax(t / temperature, axis=1) - log_softmax(s / temperature, axis=1))
    got = kd_kl(torch.tensor(s), torch.tensor(t), temperature)
    assert got.item() == pytest.approx(temperature**2 * expected.sum(1).mean(), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gradient_equals_the_closed_form(temperature):
    student, teacher = logits(3).requires_grad_(), logits(4)
    kd_kl(student, teacher, temperature).backward()
    p = softmax(student.detach().numpy() / temperature, axis=1)
    q = softmax(teacher.numpy() / temperature, axis=1)
    np.testing.assert_allclose(student.grad, temperature * (p - q) / len(p), atol=1e-12)


def test_gradients_keep_their_size_as_the_temperature_grows():
    student, teacher = logits(5).requires_grad_(), logits(6)
    norms = []
    for temperature in (50.0, 100.0):
        (gradient,) = torch.autograd.grad(kd_kl(student, teacher, temperature), student)
        norms.append(gradient.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_the_loss_is_a_mean_over_examples():
    s, t = logits(7), logits(8)
    assert kd_kl(s.repeat(5, 1), t.repeat(5, 1), 2.0).item() == pytest.approx(
        kd_kl(s, t, 2.0).item()
    )


def test_kd_weight_is_the_teachers_share():
    s, t = logits(9, classes=2), logits(10, classes=2)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    hard, soft = hard_loss(RTE, s, labels), kd_kl(s, t, 3.0)
    for weight in (0.0, 0.3, 1.0):
        loss = make_loss(RTE, Distillation(temperature=3.0, kd_weight=weight))
        assert loss(s, labels, t).item() == pytest.approx(
            ((1 - weight) * hard + weight * soft).item()
        )
    assert make_loss(RTE, None)(s, labels, None) == hard


def test_a_perfect_student_has_no_soft_loss_and_no_gradient():
    s = logits(11).requires_grad_()
    value = kd_kl(s, s.detach().clone(), 2.0)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert s.grad.abs().max() < 1e-12


def test_regression_mixes_two_squared_errors():
    s = torch.tensor([[1.0], [2.0]])
    labels, teacher = torch.tensor([0.0, 4.0]), torch.tensor([[3.0], [2.0]])
    loss = make_loss(STSB, Distillation(kd_weight=0.25))
    assert loss(s, labels, teacher).item() == pytest.approx(0.75 * (1 + 4) / 2 + 0.25 * 4 / 2)
