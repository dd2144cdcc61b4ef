from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr

from kdlora.distillation.losses import (
    Weighting,
    bernoulli_kl,
    dist,
    dkd,
    kd_kl,
    logit_mse,
    make_loss,
)
from kdlora.errors import InputError
from kdlora.spec.distillation import Distillation
from kdlora.vocabulary.task import MULTILABEL, NO_LABEL, TASKS, Task

RTE, MNLI, STSB = TASKS["rte"], TASKS["mnli"], TASKS["stsb"]


def logits(seed: int, rows: int = 7, classes: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (rows, classes)))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_kl_equals_its_definition(temperature):
    s, t = logits(1).numpy(), logits(2).numpy()
    p = softmax(t / temperature, axis=1)
    expected = p * (log_softmax(t / temperature, axis=1) - log_softmax(s / temperature, axis=1))
    got = kd_kl(torch.tensor(s), torch.tensor(t), temperature)
    np.testing.assert_allclose(got, temperature**2 * expected.sum(1), rtol=1e-12)


def test_kl_of_two_classes_by_hand():
    # teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2)
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    got = kd_kl(torch.zeros(1, 2), teacher, 1.0).item()
    assert got == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2), rel=1e-6)
    # at T = 2 the same logits, doubled, have the same KL, times 4
    assert kd_kl(torch.zeros(1, 2), 2 * teacher, 2.0).item() == pytest.approx(4 * got, rel=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_gradient_equals_the_closed_form(temperature):
    student, teacher = logits(3).requires_grad_(), logits(4)
    kd_kl(student, teacher, temperature).mean().backward()
    p = softmax(student.detach().numpy() / temperature, axis=1)
    q = softmax(teacher.numpy() / temperature, axis=1)
    np.testing.assert_allclose(student.grad, temperature * (p - q) / len(p), atol=1e-12)


def test_gradients_keep_their_size_as_the_temperature_grows():
    student, teacher = logits(5).requires_grad_(), logits(6)
    norms = []
    for temperature in (50.0, 100.0):
        (gradient,) = torch.autograd.grad(kd_kl(student, teacher, temperature).mean(), student)
        norms.append(gradient.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


@pytest.mark.parametrize("signal", ["kl", "logit-mse", "dkd", "dist"])
def test_the_loss_is_a_mean_over_examples(signal):
    s, t = logits(7), logits(8)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    loss = make_loss(MNLI, Distillation(signals={signal: 1.0}))
    assert loss(s.repeat(5, 1), labels.repeat(5), t.repeat(5, 1)).item() == pytest.approx(
        loss(s, labels, t).item()
    )


def test_kd_weight_is_the_teachers_share():
    s, t = logits(9, classes=2), logits(10, classes=2)
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    hard, soft = RTE.kind.loss(s, labels).mean(), kd_kl(s, t, 3.0).mean()
    for weight in (0.0, 0.3, 1.0):
        loss = make_loss(RTE, Distillation(temperature=3.0, kd_weight=weight))
        assert loss(s, labels, t).item() == pytest.approx(
            ((1 - weight) * hard + weight * soft).item()
        )
    assert make_loss(RTE, None)(s, labels, None) == hard


@pytest.mark.parametrize("signal", ["kl", "logit-mse", "dkd", "dist"])
def test_a_perfect_student_has_no_soft_loss_and_no_gradient(signal):
    s = logits(11).requires_grad_()
    loss = make_loss(MNLI, Distillation(kd_weight=1.0, signals={signal: 1.0}))
    value = loss(s, torch.zeros(7, dtype=torch.int64), s.detach().clone())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert s.grad.abs().max() < 1e-7


def test_regression_mixes_two_squared_errors():
    s = torch.tensor([[1.0], [2.0]])
    labels, teacher = torch.tensor([0.0, 4.0]), torch.tensor([[3.0], [2.0]])
    for signals in ({"kl": 1.0}, {"logit-mse": 1.0}):
        loss = make_loss(STSB, Distillation(kd_weight=0.25, signals=signals))
        assert loss(s, labels, teacher).item() == pytest.approx(0.75 * (1 + 4) / 2 + 0.25 * 4 / 2)


def test_logit_mse_by_hand():
    got = logit_mse(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [3.0, 0.0]]))
    assert got.tolist() == [(1 + 4) / 2, 9 / 2]


def test_dkd_by_hand():
    """Three classes, target 0: teacher (1/2, 1/3, 1/6), student (1/4, 1/2, 1/4)."""
    teacher = torch.log(torch.tensor([[1 / 2, 1 / 3, 1 / 6]], dtype=torch.float64))
    student = torch.log(torch.tensor([[1 / 4, 1 / 2, 1 / 4]], dtype=torch.float64))
    tckd = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    # among the others: teacher (2/3, 1/3), student (2/3, 1/3)
    got = dkd(student, teacher, torch.tensor([0]), alpha=3.0, beta=8.0, temperature=1.0)
    assert got.item() == pytest.approx(3 * tckd, rel=1e-9)
    # target 2: (1/6, 5/6) against (1/4, 3/4); others (3/5, 2/5) against (1/3, 2/3)
    tckd = 1 / 6 * math.log((1 / 6) / (1 / 4)) + 5 / 6 * math.log((5 / 6) / (3 / 4))
    nckd = 3 / 5 * math.log((3 / 5) / (1 / 3)) + 2 / 5 * math.log((2 / 5) / (2 / 3))
    got = dkd(student, teacher, torch.tensor([2]), alpha=1.0, beta=8.0, temperature=1.0)
    assert got.item() == pytest.approx(tckd + 8 * nckd, rel=1e-9)


@given(seed=st.integers(0, 10**6), temperature=st.floats(0.5, 8), classes=st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_dkd_is_kl_where_the_paper_says_so(seed, temperature, classes):
    """KL = TCKD + (1 - p_teacher(target)) NCKD, the paper's equation 7."""
    s, t = logits(seed, 1, classes), logits(seed + 1, 1, classes)
    target = torch.tensor([seed % classes])
    beta = 1 - softmax(t.numpy() / temperature, axis=1)[0, target.item()]
    got = dkd(s, t, target, alpha=1.0, beta=float(beta), temperature=temperature)
    assert got.item() == pytest.approx(kd_kl(s, t, temperature).item(), rel=1e-6, abs=1e-9)


def test_dkds_gradient_is_finite_for_a_sure_teacher():
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[60.0, -60.0, 0.0], [-60.0, 60.0, 0.0]])
    dkd(
        student, teacher, torch.tensor([0, 0]), alpha=1.0, beta=8.0, temperature=1.0
    ).sum().backward()
    assert torch.isfinite(student.grad).all()
    assert student.grad.abs().max() > 0.1


def test_dist_by_scipys_correlations():
    s, t = logits(12, 6, 4), logits(13, 6, 4)
    p, q = softmax(s.numpy() / 4, axis=1), softmax(t.numpy() / 4, axis=1)
    inter = np.array([1 - pearsonr(p[i], q[i]).statistic for i in range(6)])
    intra = np.mean([1 - pearsonr(p[:, c], q[:, c]).statistic for c in range(4)])
    got = dist(s, t, beta=2.0, gamma=0.5, temperature=4.0)
    np.testing.assert_allclose(got, 16 * (2 * inter + 0.5 * intra), rtol=1e-7)


def test_dist_by_hand():
    """Rows (1/2, 1/3, 1/6) and (1/6, 1/3, 1/2) run against each other: every correlation is -1,
    but for the middle column, which is constant and has none."""
    rows = torch.log(torch.tensor([[1 / 2, 1 / 3, 1 / 6], [1 / 6, 1 / 3, 1 / 2]]).double())
    got = dist(rows, rows.flip(0), beta=1.0, gamma=1.0, temperature=1.0)
    np.testing.assert_allclose(got, 2 + (2 + 2 + 1) / 3, rtol=1e-9)


def test_with_two_classes_only_dists_intra_relation_teaches():
    s, t = logits(14, 6, 2).requires_grad_(), logits(15, 6, 2)
    (gradient,) = torch.autograd.grad(dist(s, t, beta=1.0, gamma=0.0, temperature=1.0).sum(), s)
    assert gradient.abs().max() < 1e-6
    (gradient,) = torch.autograd.grad(dist(s, t, beta=0.0, gamma=1.0, temperature=1.0).sum(), s)
    assert gradient.abs().max() > 1e-3


def test_signals_add_up_by_their_weights_and_keep_their_own_temperature():
    s, t = logits(16), logits(17)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    signals = {"kl": {"weight": 0.5, "temperature": 5.0}, "dkd": {"weight": 2.0, "beta": 3.0}}
    loss = make_loss(MNLI, Distillation(kd_weight=1.0, temperature=2.0, signals=signals))
    expected = 0.5 * kd_kl(s, t, 5.0) + 2 * dkd(s, t, labels, alpha=1.0, beta=3.0, temperature=2.0)
    assert loss(s, labels, t).item() == pytest.approx(expected.mean().item())
    matched = torch.arange(7.0)
    assert loss(s, labels, t, matched).item() == pytest.approx((expected + matched).mean().item())


def test_a_row_without_a_label_counts_the_soft_term_alone_and_whole():
    s, t = logits(18, 4).requires_grad_(), logits(19, 4)
    labels = torch.tensor([2, NO_LABEL, 0, NO_LABEL])
    loss = make_loss(MNLI, Distillation(kd_weight=0.3, temperature=1.0))
    soft = kd_kl(s, t, 1.0)
    hard = -torch.log_softmax(s, -1)
    expected = (
        0.7 * hard[0, 2] + 0.3 * soft[0] + soft[1] + 0.7 * hard[2, 0] + 0.3 * soft[2] + soft[3]
    ) / 4
    assert loss(s, labels, t).item() == pytest.approx(expected.item())


def test_regression_without_labels_gives_no_nan():
    s = torch.tensor([[1.0], [2.0]], requires_grad=True)
    labels, teacher = torch.tensor([math.nan, 4.0]), torch.tensor([[3.0], [2.5]])
    value = make_loss(STSB, Distillation(kd_weight=0.25))(s, labels, teacher)
    value.backward()
    assert value.item() == pytest.approx((4.0 + 0.75 * 4 + 0.25 * 0.25) / 2)
    np.testing.assert_allclose(s.grad[:, 0], [-4 / 2, (0.75 * -4 + 0.25 * -1) / 2])


def test_without_a_label_dkd_takes_the_teachers_choice():
    s, t = logits(20, 2), logits(21, 2)
    loss = make_loss(MNLI, Distillation(kd_weight=0.5, signals={"dkd": 1.0}))
    chosen = t.argmax(-1)
    expected = dkd(s, t, chosen, alpha=1.0, beta=8.0, temperature=2.0).mean()
    assert loss(s, torch.full((2,), NO_LABEL), t).item() == pytest.approx(expected.item())


@pytest.mark.parametrize("signal", ["dkd", "dist"])
def test_signals_of_classes_are_refused_for_regression(signal):
    with pytest.raises(InputError, match=f"'{signal}' compares class probabilities"):
        make_loss(STSB, Distillation(signals={signal: 1.0}))


@pytest.mark.parametrize("classes", [2, 5])
def test_following_dist_reaches_the_teachers_relations(classes):
    generator = torch.Generator().manual_seed(0)
    teacher = 2 * torch.randn(64, classes, generator=generator)
    student = torch.randn(64, classes, generator=generator).requires_grad_()
    settings = {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}
    optimizer = torch.optim.Adam([student], lr=0.05)
    first = dist(student, teacher, **settings).mean().item()
    for _ in range(300):
        loss = dist(student, teacher, **settings).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02 * first
    same = (student.argmax(-1) == teacher.argmax(-1)).float().mean()
    assert same > 0.9


@pytest.mark.parametrize("labels", [1, 2, 200])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_gradient_of_the_bernoulli_kl_equals_the_closed_form(labels, temperature):
    student, teacher = logits(11, 5, labels).requires_grad_(), logits(12, 5, labels)
    bernoulli_kl(student, teacher, temperature).sum().backward()
    p, q = ((x.detach() / temperature).sigmoid() for x in (teacher, student))
    np.testing.assert_allclose(student.grad, temperature * (q - p) / labels, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 8))
def test_one_labels_bernoulli_kl_is_the_kl_of_the_two_classes(seed, temperature):
    s, t = logits(seed, 6, 1), logits(seed + 1, 6, 1)
    two = [torch.cat([torch.zeros_like(x), x], -1) for x in (s, t)]
    expected = kd_kl(two[0], two[1], temperature)
    torch.testing.assert_close(bernoulli_kl(s, t, temperature), expected)
    mirrored = [torch.cat([-x, x], -1) for x in (s, t)]
    torch.testing.assert_close(bernoulli_kl(mirrored[0], mirrored[1], temperature), expected)


def test_the_bernoulli_kl_of_a_sure_teacher_is_finite_and_nil_where_both_agree():
    sure = torch.tensor([[60.0, -60.0]], requires_grad=True)
    assert bernoulli_kl(sure, sure.detach(), 1.0).item() == 0
    far = bernoulli_kl(sure, -sure.detach(), 1.0)
    assert far.item() == pytest.approx(60.0)
    far.backward()
    assert torch.isfinite(sure.grad).all()


def several_labels(names: int = 3) -> Task:
    labels = tuple(f"label {i}" for i in range(names))
    return Task("own", MULTILABEL, ("text",), labels, "mean_average_precision")


def test_several_labels_mix_the_binary_cross_entropy_and_the_bernoulli_kl():
    s, t = logits(13), logits(14)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0]] * 3 + [[NO_LABEL] * 3])
    loss = make_loss(several_labels(), Distillation(kd_weight=0.3, temperature=2.0))
    hard = torch.nn.functional.binary_cross_entropy_with_logits(
        s[:6], labels[:6].to(s.dtype), reduction="none"
    ).mean(-1)
    soft = bernoulli_kl(s, t, 2.0)
    expected = torch.cat([0.7 * hard + 0.3 * soft[:6], soft[6:]]).mean()
    torch.testing.assert_close(loss(s, labels, t), expected)
    by_logits = make_loss(several_labels(), Distillation(kd_weight=1.0, signals={"logit-mse": 1.0}))
    torch.testing.assert_close(by_logits(s, labels, t), logit_mse(s, t).mean())


@pytest.mark.parametrize("signal", ["dkd", "dist"])
def test_signals_of_one_class_a_row_are_refused_where_it_may_have_several(signal):
    with pytest.raises(InputError, match=f"'{signal}' compares class.*several labels.*kl or logit"):
        make_loss(several_labels(), Distillation(signals={signal: 1.0}))


def test_weights_count_rows_of_hard_labels_by_their_class_and_leave_the_teacher_alone():
    s, t, labels = logits(30), logits(31), torch.tensor([0, 2, 1, 0, 2, NO_LABEL, 1])
    by = Weighting(torch.tensor([1.0, 5.0, 0.5]))
    each = torch.nn.functional.cross_entropy(s, labels, ignore_index=NO_LABEL, reduction="none")
    weighted = each * torch.tensor([1.0, 0.5, 5.0, 1.0, 0.5, 0.0, 5.0])
    torch.testing.assert_close(make_loss(MNLI, None, by)(s, labels, None), weighted.mean())
    kd = Distillation(kd_weight=0.3, temperature=2.0)
    share = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.3, 1.0, 0.3])
    expected = ((1 - share) * weighted + share * kd_kl(s, t, 2.0)).mean()
    torch.testing.assert_close(make_loss(MNLI, kd, by)(s, labels, t), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_the_gradient_of_the_focal_loss_is_its_closed_form(gamma):
    student, labels = logits(32).requires_grad_(), torch.tensor([0, 2, 1, 0, 2, 1, 1])
    make_loss(MNLI, None, Weighting(focal=gamma))(student, labels, None).backward()
    p = student.detach().softmax(-1)
    own = p.gather(-1, labels[:, None])
    # d/dp of -(1 - p)^g log p, times dp/dz = p (1[own] - p_k)
    slope = gamma * (1 - own) ** (gamma - 1) * own.log() - (1 - own) ** gamma / own
    ones = torch.nn.functional.one_hot(labels, 3)
    np.testing.assert_allclose(student.grad, slope * own * (ones - p) / len(labels), atol=1e-9)


def test_a_focal_loss_is_finite_where_the_model_is_sure():
    student = torch.tensor([[90.0, 0.0], [0.0, 90.0]], requires_grad=True)
    loss = make_loss(RTE, None, Weighting(focal=0.5))(student, torch.tensor([0, 0]), None)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("task", [STSB, several_labels()], ids=["numbers", "several labels"])
def test_only_classes_of_which_each_row_has_one_are_weighted(task):
    for by in (Weighting(torch.ones(2)), Weighting(focal=1.0)):
        with pytest.raises(InputError, match="no class weights and no focal loss"):
            make_loss(task, None, by)
