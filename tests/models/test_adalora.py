from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch.nn.functional import cross_entropy

from kdlora.errors import ModelError
from kdlora.models import adalora, adapters
from kdlora.models.encoders import load_encoder
from kdlora.models.saved import load_trained, save_trained
from kdlora.spec.adapter import Adapter
from kdlora.spec.run import EncoderRef
from kdlora.vocabulary.task import TASKS
from tests.harness.tiny_models import tiny_batch, train_tiny

GetEncoder = Callable[[str], EncoderRef]
RANK, STEPS, LAYERS = 4, 20, 13  # 6 in each of 2 blocks, and the pooler


def _build(encoder: GetEncoder, *, steps: int = STEPS, **options) -> tuple[PeftModel, dict]:
    loaded = load_encoder(encoder("bert"), TASKS["sst2"], seed=1, dropout=0.0)
    section = Adapter(rank=RANK, options=options)
    model = adapters.adapt(loaded, "adalora", section, seed=2, total_steps=steps)
    assert isinstance(model, PeftModel)
    return model, tiny_batch(loaded.tokenizer)


def _train(model, batch, *, steps: int = STEPS, after_step=adapters.after_step) -> None:
    train_tiny(model, batch, steps=steps, after_step=after_step, extra_loss=adapters.extra_loss)


def _live(model) -> int:
    """Singular values that are not zero, in all layers."""
    return sum(int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n)


@given(rank=st.integers(1, 64), total=st.integers(adalora.MIN_STEPS, 100_000))
def test_schedule_fits_every_run(rank: int, total: int) -> None:
    chosen = adalora.settings(rank, {}, total_steps=total)
    budgeting = total - chosen["tinit"] - chosen["tfinal"]
    assert chosen["total_step"] == total
    assert chosen["tinit"] >= 0
    assert chosen["tfinal"] >= 0
    assert abs(budgeting - total / 2) <= 1  # half of all steps cut the budget
    assert 1 <= chosen["deltaT"] <= max(budgeting / adalora.ALLOCATIONS, 1)
    assert chosen["target_r"] == rank < chosen["init_r"] < 1.5 * rank + 1


@pytest.mark.parametrize("total", [adalora.MIN_STEPS, 5, 7, STEPS])
def test_budget_is_reached(total: int, encoder: GetEncoder) -> None:
    model, batch = _build(encoder, steps=total)
    assert adapters.rank_pattern(model) is None
    _train(model, batch, steps=total)
    pattern = adapters.rank_pattern(model)
    assert len(pattern) == LAYERS
    assert sum(pattern.values()) == LAYERS * RANK == _live(model)


def test_without_the_hook_nothing_is_pruned(encoder: GetEncoder) -> None:
    """What the predecessor's runs did: the defect must show."""
    model, batch = _build(encoder)
    _train(model, batch, after_step=lambda model, step: None)
    assert adapters.rank_pattern(model) is None
    assert _live(model) == LAYERS * 6


def test_phases(encoder: GetEncoder) -> None:
    model, batch = _build(encoder)
    live = []

    def watch(model, step: int) -> None:
        adapters.after_step(model, step)
        live.append(_live(model))

    _train(model, batch, steps=STEPS + 3, after_step=watch)  # more steps than planned are harmless
    stop = adapters.earliest_stop(model)
    assert stop == 12  # 2 to warm up, 10 to cut, 8 to train what is left
    first, last = LAYERS * 6, LAYERS * RANK

    def budget(step: int) -> int:  # the paper's cubic schedule
        left = min(max(1 - (step - 2) / (stop - 2), 0), 1)
        return int(last + (first - last) * left**3)

    assert live == [budget(step) for step in range(1, STEPS + 4)]


def test_a_skipped_step_does_not_lose_the_budget(encoder: GetEncoder) -> None:
    """A step with a non-finite gradient is left out, and it may be that of the last cut."""
    model, batch = _build(encoder, deltaT=7)  # the cut before the last one is at step 7
    last = adapters.earliest_stop(model)
    _train(model, batch, after_step=lambda m, s: adapters.after_step(m, s) if s != last else None)
    assert sum(adapters.rank_pattern(model).values()) == LAYERS * RANK == _live(model)


def test_orthogonality_is_what_peft_adds_to_its_own_loss(encoder: GetEncoder) -> None:
    model, batch = _build(encoder, orth_reg_weight=0.3)
    _train(model, batch, steps=3)
    labels = torch.arange(8) % 2
    output = model.base_model(**batch, labels=labels)  # the tuner adds the term, its wrapper not
    term = output.loss - cross_entropy(output.logits, labels)
    ours = adapters.extra_loss(model)
    torch.testing.assert_close(ours, term, atol=1e-5, rtol=1e-5)
    ours.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert {n.split(".lora_")[1][0] for n in gradients} == {"A", "B"}
    assert all(g.abs().max() > 0 for g in gradients.values())


def test_an_earlier_state_is_saved_as_it_is(encoder: GetEncoder, tmp_path: Path) -> None:
    """The pattern of the last cut must not be laid over a state from before it."""
    model, batch = _build(encoder)
    _train(model, batch, steps=6)
    early = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _train(model, batch)
    final = adapters.rank_pattern(model)
    model.load_state_dict(early)
    with torch.no_grad():  # make every singular value matter
        for name, parameter in model.named_parameters():
            if "lora_E" in name:
                parameter *= 300
    model.eval()
    logits = model(**batch).logits
    assert sum(adapters.rank_pattern(model).values()) > sum(final.values())
    tokenizer = load_encoder(encoder("bert"), TASKS["sst2"], seed=0).tokenizer
    save_trained(model, tokenizer, tmp_path / "run", encoder=encoder("bert"))
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(again(**batch).logits, logits, atol=1e-5, rtol=0)


def test_training_goes_on_after_saving(encoder: GetEncoder, tmp_path: Path) -> None:
    def run(save_at: int) -> dict[str, int]:
        model, batch = _build(encoder)
        tokenizer = load_encoder(encoder("bert"), TASKS["sst2"], seed=0).tokenizer

        def step(model, step: int) -> None:
            adapters.after_step(model, step)
            if step == save_at:
                save_trained(model, tokenizer, tmp_path / f"at{step}")

        _train(model, batch, after_step=step)
        return adapters.rank_pattern(model)

    assert run(8) == run(15) == run(0)


def test_saving_does_not_change_the_allocation(encoder: GetEncoder, tmp_path: Path) -> None:
    """Between an optimizer step and the hook, pruned singular values are not zero."""
    model, batch = _build(encoder)
    _train(model, batch)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_E" in name:
                parameter += 1
    tokenizer = load_encoder(encoder("bert"), TASKS["sst2"], seed=0).tokenizer
    save_trained(model, tokenizer, tmp_path / "run")
    adapters.after_step(model, STEPS)
    assert _live(model) == LAYERS * RANK


def test_allocator_goes_on_from_a_checkpoint(encoder: GetEncoder) -> None:
    """Weights and allocator state restored in a new process give the same ranks as one run."""

    def descend(model, batch, first: int, last: int) -> None:
        model.eval()
        for step in range(first, last + 1):
            loss = cross_entropy(model(**batch).logits, torch.arange(8) % 2)
            (loss + adapters.extra_loss(model)).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.grad is not None:
                        parameter -= 0.3 * parameter.grad
            adapters.after_step(model, step)
            model.zero_grad()

    whole, batch = _build(encoder)
    descend(whole, batch, 1, STEPS)

    first, _ = _build(encoder)
    descend(first, batch, 1, 11)
    weights, allocator = first.state_dict(), adapters.allocator_state(first)
    second, _ = _build(encoder)
    second.load_state_dict(weights)
    adapters.load_allocator_state(second, allocator)
    descend(second, batch, 12, STEPS)
    assert adapters.rank_pattern(second) == adapters.rank_pattern(whole)

    forgetful, _ = _build(encoder)
    forgetful.load_state_dict(weights)
    descend(forgetful, batch, 12, STEPS)
    assert adapters.rank_pattern(forgetful) is None  # no scores to make the last cut by


def test_a_layer_may_lose_all_its_rank(encoder: GetEncoder, tmp_path: Path) -> None:
    model, batch = _build(encoder)
    _train(model, batch)
    name = next(n for n, _ in model.named_parameters() if "lora_E" in n)
    with torch.no_grad():
        model.get_parameter(name).zero_()
    model.eval()
    logits = model(**batch).logits
    assert 0 in adapters.rank_pattern(model).values()
    tokenizer = load_encoder(encoder("bert"), TASKS["sst2"], seed=0).tokenizer
    save_trained(model, tokenizer, tmp_path / "run", encoder=encoder("bert"))
    again, _ = load_trained(tmp_path / "run")
    torch.testing.assert_close(again(**batch).logits, logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("steps", "options", "message"),
    [
        (3, {}, "at least 4 optimizer steps"),
        (20, {"init_r": RANK}, "init_r 4 must be larger than the rank 4"),
        (20, {"tinit": 12, "tfinal": 8}, "leave no steps"),
        (20, {"tinit": -1}, "leave no steps"),
        (20, {"total_step": 99}, "no option 'total_step'"),
    ],
)
def test_impossible_schedules(steps: int, options: dict, message: str, encoder: GetEncoder) -> None:
    with pytest.raises(ModelError, match=message):
        _build(encoder, steps=steps, **options)
