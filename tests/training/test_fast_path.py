"""A whole training by the fast path against a plain one in fp32 through transformers and peft."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from kdlora.distillation.losses import make_loss
from kdlora.models.fused import team as teams
from kdlora.models.fused.team import Team
from kdlora.spec.distillation import Distillation
from kdlora.spec.sections import Training
from kdlora.training.forward import make_forward
from kdlora.training.inference import predict
from kdlora.training.loop import TrainingData
from kdlora.training.precision import Compute, ready_for_training
from tests.harness import training
from tests.harness.tiny_models import tiny_config
from tests.harness.training import DATA, TASK, same

FP32 = Compute(torch.device("cpu"), torch.float32, "eager", "test")
BF16 = Compute(torch.device("cpu"), torch.bfloat16, "eager", "test")
LABELS = DATA.labels.float()
TEACHER = TrainingData(DATA.texts, DATA.labels, torch.stack([2 - 4 * LABELS, 4 * LABELS - 2], 1))
SETTINGS = Training(epochs=12, batch_size=16, max_length=32)


@pytest.fixture(params=[1, 2])
def threads(request, monkeypatch):
    """One thread, or two with texts of their own."""
    monkeypatch.setattr(teams, "LEAST", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def student(compute: Compute, *, adapted: bool, dropout: float = 0.0):
    config = tiny_config(
        "bert", layers=2, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
    )
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = AutoModelForSequenceClassification.from_config(config, attn_implementation="eager")
    if adapted:
        config = LoraConfig(
            r=8, lora_alpha=16, lora_dropout=dropout,
            target_modules=["query", "value", "dense"],
            modules_to_save=["classifier"],
        )  # fmt: skip
        with torch.random.fork_rng():
            torch.manual_seed(5)
            model = get_peft_model(model, config)
    return ready_for_training(model, compute)


def plain(model):
    return lambda inputs: model(**inputs).logits


def fit(model, compute, folder, *, forward=None, settings=SETTINGS, **changes):
    """Train on labels and a teacher's logits; accuracy and logits by the same forward pass."""
    forward = forward or make_forward(model, compute)
    folder.mkdir(exist_ok=True)

    def evaluate(model):
        outputs = predict(model, TEACHER.texts, compute, forward=forward)
        return {"accuracy": float((outputs.argmax(1) == TEACHER.labels.numpy()).mean())}

    return training.fit(
        model, folder, data=TEACHER, settings=settings,
        loss=make_loss(TASK, Distillation(temperature=2.0, kd_weight=0.5)),
        evaluate=evaluate, compute=compute, forward=forward, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("adapted", [True, False], ids=["lora", "fft"])
def test_losses_scores_and_weights_in_fp32(tmp_path, threads, adapted):
    reference, fast = student(FP32, adapted=adapted), student(FP32, adapted=adapted)
    wanted = fit(reference, FP32, tmp_path / "plain", forward=plain(reference))
    found = fit(fast, FP32, tmp_path / "fast")
    assert wanted.best_score > 0.8
    assert wanted.history[-1]["train_loss"] < 0.7 * wanted.history[0]["train_loss"]
    for ours, theirs in zip(found.history, wanted.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=5e-3)
        assert ours["selection"]["accuracy"] == pytest.approx(
            theirs["selection"]["accuracy"],
            abs=0.011,  # one text
        )
    assert found.best_score == pytest.approx(wanted.best_score, abs=0.011)
    ours, theirs = (predict(m, TEACHER.texts, FP32, forward=plain(m)) for m in (fast, reference))
    if found.best_step == wanted.best_step:
        assert abs(ours - theirs).max() < 0.02


def test_losses_and_scores_in_bf16(tmp_path):
    reference, fast = student(FP32, adapted=True), student(BF16, adapted=True)
    wanted = fit(reference, FP32, tmp_path / "plain", forward=plain(reference))
    found = fit(fast, BF16, tmp_path / "fast")
    for ours, theirs in zip(found.history, wanted.history, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.05)
    assert found.best_score == pytest.approx(wanted.best_score, abs=0.03)


@pytest.mark.parametrize("stop_at", [7, 12])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, threads, monkeypatch, stop_at):
    """With dropout everywhere, on one thread and on two."""
    made, init = [], Team.__init__
    monkeypatch.setattr(Team, "__init__", lambda self, n: made.append(n) or init(self, n))
    whole, halves = (student(FP32, adapted=True, dropout=0.2) for _ in range(2))
    few = SETTINGS.model_copy(update={"epochs": 3})  # 18 steps
    wanted = fit(whole, FP32, tmp_path / "whole", settings=few)

    def stop(event):
        if event.get("step") == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(halves, FP32, tmp_path / "halves", settings=few, on_progress=stop)
    again = student(FP32, adapted=True, dropout=0.2)
    found = fit(again, FP32, tmp_path / "halves", settings=few)
    assert same(whole, again)
    assert [r["train_loss"] for r in found.history] == [r["train_loss"] for r in wanted.history]
    assert made == [2] * (3 if threads == 2 else 0)
