"""Training with terms on inner states: the projectors learn, are resumed, and stay outside."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kdlora.data.batches import collate
from kdlora.distillation.hidden_states import Online, shape_of
from kdlora.distillation.losses import make_loss
from kdlora.distillation.matching import Matching, plan_matching
from kdlora.spec.distillation import Distillation
from kdlora.spec.sections import Training
from kdlora.training import forward
from kdlora.training.forward import make_state_forward
from kdlora.training.inference import predict
from kdlora.training.loop import Hooks, TrainingData
from tests.harness import training
from tests.harness.device_reads import reads_of_steps
from tests.harness.tiny_models import tiny_config
from tests.harness.training import CPU, DATA, TASK, make_model

KD = Distillation(
    kd_weight=0.8, signals={"kl": 1.0, "hidden": {"layers": "last"}, "relations": {"heads": 4}}
)
SETTINGS = Training(epochs=2, batch_size=16, max_length=32)


def wide_teacher():
    with torch.random.fork_rng():
        torch.manual_seed(9)
        config = tiny_config("roberta", layers=2, width=32)
        return AutoModelForSequenceClassification.from_config(config).eval()


TEACHER = wide_teacher()


def setting():
    student = make_model(dropout=0.0)
    ours, theirs = shape_of(student.config), shape_of(TEACHER.config)
    plan = plan_matching(KD.signals, ours, theirs)
    online = Online(make_state_forward(TEACHER, CPU, plan.teacher), DATA.texts, CPU.device)
    matching = Matching(plan, online, student_width=16, teacher_width=32, seed=3)
    soft = torch.from_numpy(predict(TEACHER, DATA.texts, CPU))
    return student, TrainingData(DATA.texts, DATA.labels, soft, matching)


def fit(student, data, folder, settings=SETTINGS, **changes):
    return training.fit(
        student, folder, data=data, settings=settings, loss=make_loss(TASK, KD), **changes
    )


def test_a_step_that_compares_inner_states_reads_nothing_from_its_device(tmp_path, monkeypatch):
    monkeypatch.setattr(forward, "fuse", lambda *model: None)  # as where it is an accelerator
    student, data = setting()
    reads = reads_of_steps(monkeypatch, lambda: fit(student, data, tmp_path))
    assert reads == []


def test_the_inner_terms_fall_and_the_projector_learns(tmp_path):
    student, data = setting()
    names = set(student.state_dict())
    before = data.matching.projectors[0].weight.detach().clone()

    def term() -> float:
        index = np.arange(32)
        with torch.no_grad():
            inputs = collate(data.texts, index)
            states = make_state_forward(student.eval(), CPU, data.matching.plan.student)(inputs)[1]
            return data.matching.terms(states, inputs["attention_mask"], index).mean().item()

    first = term()
    progress = fit(student, data, tmp_path)
    assert progress.step == 12
    assert term() < 0.9 * first
    assert not torch.equal(data.matching.projectors[0].weight, before)
    assert set(student.state_dict()) == names
    assert all(p.grad is None for p in TEACHER.parameters())


def test_an_interrupted_training_ends_with_the_same_student_and_projector(tmp_path):
    whole, data = setting()
    for name in "ab":
        (tmp_path / name).mkdir()
    fit(whole, data, tmp_path / "a")
    expected = copy.deepcopy(data.matching.state_dict())

    def stop(event):
        if event.get("step") == 7:
            raise KeyboardInterrupt

    student, data = setting()
    with pytest.raises(KeyboardInterrupt):
        fit(student, data, tmp_path / "b", on_progress=stop)
    student, data = setting()
    progress = fit(student, data, tmp_path / "b")
    assert progress.resumed == 1
    for a, b in zip(whole.parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, value in data.matching.state_dict().items():
        assert torch.equal(value, expected[name])


def test_a_batch_in_parts_has_the_gradient_of_the_whole(tmp_path):
    gradients, losses = [], []
    for micro in (16, 5):
        student, data = setting()
        parameters = [*student.parameters(), *data.matching.parameters()]

        def look(model, step, parameters=parameters):
            if step == 1:  # later ones start from weights that differ by rounding
                found = [p.grad.clone() for p in parameters if p.grad is not None]
                gradients.append(found)

        settings = Training(
            epochs=1, batch_size=16, micro_batch_size=micro, evals_per_epoch=6, clip_norm=1e6
        )
        folder = tmp_path / str(micro)
        folder.mkdir()
        progress = fit(student, data, folder, settings, hooks=Hooks(after_step=look))
        losses.append(progress.history[0]["train_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)
