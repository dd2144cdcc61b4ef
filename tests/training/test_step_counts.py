"""Steps that an accelerator need not be waited for: what is counted, skipped, and read when."""

from __future__ import annotations

import math

import pytest
import torch

from kdlora.distillation.losses import make_loss
from kdlora.spec.sections import Training
from kdlora.training import loop
from kdlora.training.checkpoint import Progress
from kdlora.training.step_counts import MAX_NONFINITE, StepCounts
from tests.harness.device_reads import reads_of_steps
from tests.harness.training import CPU, DATA, TASK, fit, make_model, same


def plainly(model):
    """The forward pass of an accelerator: the model's own."""
    return lambda inputs: model(**inputs).logits.float()


def test_a_step_reads_nothing_from_its_device(tmp_path, monkeypatch):
    model, settings = make_model(), Training(epochs=1, batch_size=16, micro_batch_size=8)
    found = reads_of_steps(
        monkeypatch, lambda: fit(model, tmp_path, settings=settings, forward=plainly(model))
    )
    assert found == []


def test_a_read_is_seen(tmp_path, monkeypatch):
    """The watch itself: a loss that looks at its value is caught in every step."""
    plain = make_loss(TASK, None)

    def looking(logits, labels, teacher):
        value = plain(logits, labels, teacher)
        return value if bool(value > 0) else -value

    settings, model = Training(epochs=1, batch_size=16, max_length=32), make_model()
    found = reads_of_steps(
        monkeypatch,
        lambda: fit(model, tmp_path, settings=settings, loss=looking, forward=plainly(model)),
    )
    assert len(found) == 6


def losses_by_step(*bad: int):
    """The usual loss, but NaN in these steps, the first being 0."""
    plain, steps = make_loss(TASK, None), iter(range(10_000))

    def loss(logits, labels, teacher):
        value = plain(logits, labels, teacher)
        return value * math.nan if next(steps) in bad else value

    return loss


@pytest.mark.parametrize("bad", [(), (0,), (3, 4, 9)])
def test_counts_that_are_read_late_are_those_that_are_read_at_once(tmp_path, monkeypatch, bad):
    models, told = [make_model(), make_model()], []
    for model, at_hand in zip(models, (True, False), strict=True):
        folder = tmp_path / str(at_hand)
        folder.mkdir()
        patched(monkeypatch, at_hand)
        told.append(fit(model, folder, loss=losses_by_step(*bad)))
    assert same(*models)
    assert told[0].history == told[1].history
    assert [told[0].nonfinite_steps, told[1].nonfinite_steps] == [len(bad)] * 2


def patched(monkeypatch, at_hand: bool) -> None:
    """As on a device whose numbers are, or are not, read after every step."""

    class Counts(StepCounts):
        def __init__(self, progress, device):
            super().__init__(progress, device)
            self.at_hand = at_hand

    monkeypatch.setattr(loop, "StepCounts", Counts)


def test_training_that_is_given_up_changes_nothing_until_somebody_reads_it(tmp_path, monkeypatch):
    """Steps 8 to 10 are NaN and give up; step 11 would be sound, but must not be taken any more."""
    patched(monkeypatch, at_hand=False)
    model = make_model()
    settings = Training(epochs=4, batch_size=16, max_length=32)
    progress = fit(model, tmp_path, settings=settings, loss=losses_by_step(8, 9, 10))
    assert progress.stopped == "nonfinite"
    assert progress.nonfinite_steps == MAX_NONFINITE
    assert progress.step == 12  # the evaluation that read it
    patched(monkeypatch, at_hand=True)
    reference, other = make_model(), tmp_path / "other"
    other.mkdir()
    at_once = fit(reference, other, settings=settings, loss=losses_by_step(8, 9, 10))
    assert at_once.step == 11
    assert at_once.stopped == "nonfinite"
    assert same(model, reference)  # both at their best weights, of step 6


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1.0])
@pytest.mark.parametrize("norm", [math.nan, math.inf, 1.0])
def test_a_step_is_skipped_where_loss_or_gradient_is_not_finite(loss, norm):
    progress = Progress(loss_sum=2.0, loss_steps=1, nonfinite_row=1, nonfinite_steps=1)
    counts = StepCounts(progress, CPU.device)
    skipped = counts.add(torch.tensor(loss, dtype=torch.float64), torch.tensor(norm))
    counts.read(progress)
    sound = math.isfinite(loss) and math.isfinite(norm)
    assert bool(skipped) == (not sound)
    assert progress.loss_sum == (3.0 if sound else 2.0)
    assert progress.loss_steps == (2 if sound else 1)
    assert progress.nonfinite_steps == (1 if sound else 2)
    assert progress.nonfinite_row == (0 if sound else 2)


def test_a_skipped_step_leaves_the_optimizer_as_it_was():
    """The next step has the bias correction and the moments that it would have had without it."""
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(3, 4, generator=generator)
    ends = []
    for steps in ((0, 1, 2), (0, None, 1, None, 2), (None, 0, 1, 2)):
        weight = torch.nn.Parameter(torch.ones(4))
        optimizer = loop.make_optimizer({"weight": weight}, Training())
        optimizer.param_groups[0]["lr"] = 0.1
        for step in steps:
            weight.grad = torch.full((4,), math.nan) if step is None else gradients[step].clone()
            norm = loop.gradient_norm({"weight": weight})
            loop.clipped_step(optimizer, norm, 1.0, torch.tensor(float(step is None)))
        ends.append(weight.detach())
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_data_on_the_processor_is_used_as_it_lies():
    from kdlora.data.batches import on_device

    assert on_device(DATA.labels, CPU.device) is DATA.labels


def test_once_given_up_a_sound_step_is_skipped_too_and_counts_nothing():
    progress = Progress()
    counts = StepCounts(progress, CPU.device)
    norm, bad = torch.tensor(1.0), torch.tensor(math.nan, dtype=torch.float64)
    skipped = [bool(counts.add(bad, norm)) for _ in range(MAX_NONFINITE)]
    skipped.append(bool(counts.add(torch.tensor(1.0, dtype=torch.float64), norm)))
    counts.read(progress)
    assert all(skipped)
    assert counts.given_up(progress)
    assert (progress.nonfinite_steps, progress.loss_steps) == (MAX_NONFINITE, 0)
