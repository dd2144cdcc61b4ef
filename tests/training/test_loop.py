from __future__ import annotations

import copy
import math
import signal

import numpy as np
import pytest
import torch
from torch import nn

from kdlora.data.batches import encode
from kdlora.distillation.losses import make_loss
from kdlora.spec.sections import Training, Windows
from kdlora.training import loop
from kdlora.training.inference import predict
from kdlora.training.loop import (
    Hooks,
    NewRates,
    Seeds,
    TrainingData,
    clipped_step,
    gradient_norm,
    make_optimizer,
)
from kdlora.training.schedule import make_schedule
from kdlora.training.step_counts import MAX_NONFINITE
from tests.harness.moods import sentences
from tests.harness.tiny_models import tiny_tokenizer
from tests.harness.training import CONFIG, CPU, DATA, TASK, accuracy, fit, make_model, same


def test_it_learns_and_says_what_it_did(tmp_path):
    model = make_model()
    progress = fit(model, tmp_path, settings=Training(epochs=12, batch_size=16, max_length=32))
    losses = [row["train_loss"] for row in progress.history]
    assert losses[-1] < 0.5 * losses[0]
    assert accuracy(model)["accuracy"] > 0.95
    assert progress.step == 12 * 6
    assert progress.examples == 12 * 96
    assert progress.tokens == 12 * DATA.texts.lengths.sum()
    assert progress.train_s > 0
    assert (tmp_path / "history.jsonl").read_text().count("\n") == 12
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_same_seeds_give_the_same_weights_and_others_do_not(tmp_path):
    models = [make_model() for _ in range(3)]
    for model in models[:2]:
        fit(model, tmp_path)
    fit(models[2], tmp_path, seeds=Seeds(9, 2))
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_torchs_own_generator_is_left_alone(tmp_path):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    fit(make_model(), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_modules_are_in_training_in_every_step_and_not_afterwards(tmp_path):
    model, plain, modes = make_model().eval(), make_loss(TASK, None), []
    model.training = True  # as an adapter's model is, whose encoder was loaded to be used

    def loss(logits, labels, teacher):
        modes.append({module.training for module in model.modules()})
        return plain(logits, labels, teacher)

    def evaluate(model):
        model.eval()
        return {"accuracy": 0.5}

    progress = fit(model, tmp_path, loss=loss, evaluate=evaluate)
    assert progress.evals > 1
    assert modes == [{True}] * progress.step
    assert {module.training for module in model.modules()} == {False}


def test_the_best_evaluation_is_kept_not_the_last(tmp_path):
    scores = iter([0.5, 0.9, 0.7])
    seen = []

    def evaluate(model):
        seen.append(copy.deepcopy(model.state_dict()))
        return {"accuracy": next(scores)}

    model = make_model()
    progress = fit(model, tmp_path, evaluate=evaluate)
    assert progress.best_step == 12
    assert progress.best_score == 0.9
    for name, value in model.state_dict().items():
        assert torch.equal(value, seen[1][name]), name


def test_lower_is_better_where_the_metric_says_so(tmp_path):
    scores = iter([0.5, 0.3, 0.4])
    progress = fit(
        make_model(), tmp_path,
        evaluate=lambda model: {"rmse": next(scores)}, primary="rmse", direction=-1,
    )  # fmt: skip
    assert progress.best_score == 0.3


@pytest.mark.parametrize("micro", [1, 5, 16])
def test_gradient_accumulation_changes_nothing_but_memory(tmp_path, micro):
    whole, parts = make_model(dropout=0.0), make_model(dropout=0.0)
    fit(whole, tmp_path, settings=Training(epochs=1, batch_size=16, max_length=32))
    settings = Training(epochs=1, batch_size=16, micro_batch_size=micro, max_length=32)
    fit(parts, tmp_path, settings=settings)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3, msg=name)


def test_windows_of_a_text_are_pooled_before_the_loss_however_a_batch_is_divided(tmp_path):
    texts, moods = sentences(48, 3)
    long = [f"{'the film with a plot ' * (i % 5)}{text}" for i, text in enumerate(texts)]
    encoded = encode(
        tiny_tokenizer(CONFIG), (long,), max_length=16, windows=Windows(stride=4, max_windows=3)
    )
    assert encoded.windows.counts.max() == 3
    data = TrainingData(encoded, torch.tensor([int(mood == "pos") for mood in moods]))
    seen = []

    def loss(logits, labels, teacher):
        seen.append(len(logits))
        return make_loss(TASK, None)(logits, labels, teacher)

    models = []
    for micro in (None, 5):
        settings = Training(epochs=1, batch_size=16, micro_batch_size=micro, max_length=16)
        models.append(make_model(dropout=0.0))
        fit(
            models[-1], tmp_path, data=data, settings=settings, loss=loss,
            schedule=make_schedule(48, settings, 5e-3),
        )  # fmt: skip
    assert sum(seen) == 2 * 48  # one loss a text, and no text in two parts
    assert max(seen[-8:]) <= 5
    for one, two in zip(*(m.parameters() for m in models), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_out_of_memory_halves_the_micro_batch_and_says_so(tmp_path, error):
    plain = make_loss(TASK, None)

    def hungry(logits, labels, teacher):
        if len(logits) > 4:
            raise error
        return plain(logits, labels, teacher)

    model, reference = make_model(dropout=0.0), make_model(dropout=0.0)
    progress = fit(model, tmp_path, loss=hungry)
    fit(reference, tmp_path)
    assert progress.micro_batch_size == 4
    assert progress.out_of_memory_retries == 2
    assert progress.step == 18
    drift = [(a - b).abs().max() for a, b in zip(model.parameters(), reference.parameters(),
                                                strict=True)]  # fmt: skip
    assert max(drift) < 1e-3


def test_other_errors_are_not_taken_for_memory(tmp_path):
    def broken(logits, labels, teacher):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        fit(make_model(), tmp_path, loss=broken)


def test_a_step_without_a_finite_gradient_changes_no_weight(tmp_path):
    plain, calls = make_loss(TASK, None), iter(range(100))

    def bad_once(logits, labels, teacher):
        value = plain(logits, labels, teacher)
        return value * math.nan if next(calls) == 3 else value

    model = make_model()
    progress = fit(model, tmp_path, loss=bad_once)
    assert progress.nonfinite_steps == 1
    assert progress.stopped == "completed"
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_lasting_nan_stops_the_run_at_its_best_weights(tmp_path):
    plain, calls = make_loss(TASK, None), iter(range(100))

    def bad_later(logits, labels, teacher):
        value = plain(logits, labels, teacher)
        return value * math.nan if next(calls) >= 8 else value

    model = make_model()
    progress = fit(model, tmp_path, loss=bad_later)
    assert progress.stopped == "nonfinite"
    assert progress.nonfinite_steps == MAX_NONFINITE
    assert progress.best_step == 6


@pytest.mark.parametrize("stop_at", [1, 7, 12])
def test_an_interrupted_run_ends_with_the_weights_of_an_undisturbed_one(tmp_path, stop_at):
    undisturbed, folder = make_model(), tmp_path / "a"
    folder.mkdir()
    expected = fit(undisturbed, folder)

    def interrupt(event):
        if event.get("step") == stop_at:
            raise KeyboardInterrupt

    other = tmp_path / "b"
    other.mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), other, on_progress=interrupt)
    assert (other / "checkpoint.pt").exists()
    resumed = make_model(seed=99)  # whatever it starts from, the checkpoint decides
    progress = fit(resumed, other)
    assert same(undisturbed, resumed)
    assert progress.resumed == 1
    for name in ("best_step", "best_score", "examples", "tokens", "step"):
        assert getattr(progress, name) == getattr(expected, name)
    assert [r["selection"] for r in progress.history] == [r["selection"] for r in expected.history]


def test_ctrl_c_waits_for_the_end_of_the_step(tmp_path):
    plain, calls = make_loss(TASK, None), iter(range(100))

    def pressed(logits, labels, teacher):
        if next(calls) == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # as from the terminal and from the parent
        return plain(logits, labels, teacher)

    undisturbed, model = make_model(), make_model()
    (tmp_path / "a").mkdir()
    fit(undisturbed, tmp_path / "a")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(model, tmp_path, loss=pressed)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = make_model()
    assert fit(resumed, tmp_path).step == 18
    assert same(undisturbed, resumed)


def test_what_an_epoch_or_the_training_cost_is_not_lost(tmp_path, monkeypatch):
    """The end of an epoch and of the training are kept where much would have to be done again."""
    kept = []
    real = loop.save_checkpoint

    def save(folder, progress, *rest):
        kept.append(progress.step)
        real(folder, progress, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", save)
    expected = fit(make_model(), tmp_path)
    assert kept == []  # short trainings are cheaper to repeat than to keep
    monkeypatch.setattr(loop, "CHECKPOINT_S", -1.0)
    fit(first := make_model(), tmp_path)
    assert kept == [6, 12, 18]
    # Killed after the training, before its record: nothing is trained again.
    again = fit(second := make_model(seed=9), tmp_path, loss=None, evaluate=unwanted)
    assert same(first, second)
    assert (again.step, again.best_score) == (18, expected.best_score)


def unwanted(model):
    raise AssertionError("nothing is left to evaluate")


def test_a_training_that_was_stopped_early_is_not_trained_further(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_S", -1.0)
    early = Training(epochs=10, batch_size=16, patience=1, warmup=0.0, max_length=32)
    flat = {"accuracy": 0.5}
    fit(first := make_model(), tmp_path, settings=early, evaluate=lambda model: flat)
    again = fit(second := make_model(seed=9), tmp_path, settings=early, evaluate=unwanted)
    assert (again.stopped, again.step) == ("patience", 12)
    assert same(first, second)


def test_a_torn_checkpoint_is_set_aside(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"not a checkpoint")
    progress = fit(make_model(), tmp_path)
    assert progress.resumed == 0
    assert (tmp_path / "checkpoint.damaged-0.pt").read_bytes() == b"not a checkpoint"


def test_a_checkpoint_with_one_flipped_bit_is_set_aside_and_training_begins_anew(tmp_path):
    (tmp_path / "a").mkdir()
    fit(undisturbed := make_model(), tmp_path / "a")

    def interrupt(event):
        if event.get("step") == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(interrupted := make_model(), tmp_path, on_progress=interrupt)
    path = tmp_path / "checkpoint.pt"
    content = bytearray(path.read_bytes())
    content[content.index(interrupted.classifier.weight.detach().numpy().tobytes()) + 5] ^= 4
    path.write_bytes(content)
    progress = fit(model := make_model(), tmp_path)
    assert progress.resumed == 0
    assert (tmp_path / "checkpoint.damaged-0.pt").read_bytes() == content
    assert same(model, undisturbed)


def test_patience_counts_only_after_warm_up(tmp_path):
    settings = Training(epochs=10, batch_size=16, patience=1, warmup=0.5, max_length=32)
    progress = fit(make_model(), tmp_path, settings=settings, evaluate=lambda m: {"accuracy": 0.5})
    assert progress.stopped == "patience"
    assert progress.step == 36  # warm-up ends at step 30; the next evaluation is the first to count
    early = Training(epochs=10, batch_size=16, patience=1, warmup=0.0, max_length=32)
    progress = fit(make_model(), tmp_path, settings=early, evaluate=lambda m: {"accuracy": 0.5})
    assert progress.step == 12


def test_no_evaluation_before_the_earliest_is_chosen_and_none_stops(tmp_path):
    scores = iter([0.9, 0.9, 0.5, 0.4, 0.4, 0.4])
    settings = Training(epochs=6, batch_size=16, patience=1, warmup=0.0, max_length=32)
    progress = fit(make_model(), tmp_path, settings=settings, hooks=Hooks(earliest_best=18),
                   evaluate=lambda m: {"accuracy": next(scores)})  # fmt: skip
    assert progress.best_step == 18
    assert progress.step == 24


def test_hooks_are_called_once_a_step_whatever_the_micro_batch(tmp_path):
    steps, extras = [], []

    def extra(model):
        extras.append(1)
        return torch.zeros((), requires_grad=True)

    hooks = Hooks(after_step=lambda model, step: steps.append(step), extra_loss=extra)
    settings = Training(epochs=1, batch_size=16, micro_batch_size=4, max_length=32)
    fit(make_model(), tmp_path, settings=settings, hooks=hooks)
    assert steps == [1, 2, 3, 4, 5, 6]
    assert len(extras) == 6


def test_frozen_weights_do_not_move(tmp_path):
    model = make_model()
    model.bert.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    fit(model, tmp_path)
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert moved == {"classifier.weight", "classifier.bias"}


def test_decay_spares_biases_and_norms():
    model = make_model()
    named = dict(model.named_parameters())
    optimizer = loop.make_optimizer(named, Training(weight_decay=0.1))
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    for name, parameter in named.items():
        spared = name.endswith("bias") or "LayerNorm" in name
        assert (id(parameter) in decayed) != spared, name


def test_predictions_do_not_depend_on_the_company(tmp_path):
    model = make_model()
    outputs = predict(model, DATA.texts, CPU)
    alone = encode(tiny_tokenizer(CONFIG), ([sentences(96, 0)[0][5]],), max_length=32)
    np.testing.assert_allclose(predict(model, alone, CPU)[0], outputs[5], atol=1e-6)


def test_flops_are_summed_over_what_was_computed(tmp_path):
    progress = fit(make_model(), tmp_path, step_flops=lambda batch, length: batch * 10.0)
    assert progress.flops == progress.examples * 10


@pytest.mark.parametrize("size", [0.01, 100.0])
def test_a_clipped_step_is_torchs_own(size):
    """Gradients below the limit stay as they are, those above are scaled to it."""
    generator = torch.Generator().manual_seed(0)
    states = []
    for ours in (True, False):
        weight = nn.Parameter(torch.ones(4, 3))
        optimizer = make_optimizer({"weight": weight}, Training())
        optimizer.param_groups[0]["lr"] = 0.1
        weight.grad = size * torch.randn(4, 3, generator=generator.manual_seed(1))
        if ours:
            clipped_step(optimizer, gradient_norm({"weight": weight}), 1.0, torch.zeros(()))
        else:
            nn.utils.clip_grad_norm_([weight], 1.0)
            optimizer.step()
        states.append((weight.detach(), optimizer.state[weight]["exp_avg"]))
    for one, other in zip(*states, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


def test_new_parameters_move_by_their_own_rate(tmp_path):
    """AdamW's first step moves every weight by its rate, whatever the gradient's size."""
    names = frozenset({"classifier.weight", "classifier.bias"})
    settings = Training(epochs=1, batch_size=96, warmup=0.0, weight_decay=0.0, max_length=32)
    model = make_model(dropout=0.0)
    before = copy.deepcopy(model.state_dict())
    schedule = make_schedule(len(DATA.labels), settings, 1e-4)
    fit(model, tmp_path, settings=settings, schedule=schedule, new=NewRates(names, 50.0))
    moved = {n: (p - before[n]).abs().max().item() for n, p in model.named_parameters()}
    assert [moved[n] for n in names] == pytest.approx([5e-3, 5e-3], rel=0.05)
    assert max(v for n, v in moved.items() if n not in names) == pytest.approx(1e-4, rel=0.05)


def test_a_rate_of_their_own_that_is_the_others_changes_nothing(tmp_path):
    models = []
    for number, new in enumerate((None, NewRates(frozenset(), 1.0))):
        models.append(make_model())
        (tmp_path / str(number)).mkdir()
        fit(models[-1], tmp_path / str(number), new=new)
    assert same(*models)


def test_an_interrupted_training_with_a_rate_of_its_own_goes_on_as_if_undisturbed(tmp_path):
    new = NewRates(frozenset({"classifier.weight", "classifier.bias"}), 10.0)
    models = []
    for stop in (None, 7):
        (folder := tmp_path / str(stop)).mkdir()

        def at(event, stop=stop):
            if event.get("step") == stop:
                raise KeyboardInterrupt

        if stop:
            with pytest.raises(KeyboardInterrupt):
                fit(make_model(), folder, new=new, on_progress=at)
        models.append(make_model())
        fit(models[-1], folder, new=new)
    assert same(*models)


def test_the_last_epoch_need_not_be_whole(tmp_path):
    settings = Training(epochs=1, batch_size=16, max_length=32)
    schedule = make_schedule(len(DATA.labels), settings, 1e-3, counted=50)
    progress = fit(make_model(), tmp_path, settings=settings, schedule=schedule)
    assert progress.step == schedule.total_steps == 10
    assert [row["step"] for row in progress.history] == [6, 10]


def test_a_checkpoint_of_labels_in_another_unit_is_not_continued(tmp_path):
    def stop(event):
        if event.get("step") == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make_model(), tmp_path, on_progress=stop)
    progress = fit(make_model(), tmp_path, unit="(2.5, 1.5)")
    assert progress.resumed == 0
    assert list(tmp_path.glob("checkpoint*damaged*"))
