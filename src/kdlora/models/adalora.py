"""AdaLoRA's schedule, rank allocation and orthogonality term (Zhang et al. 2023).

peft holds the parts but leaves the work to the training loop: nobody calls the allocator, and the
orthogonality term is added only to a loss that the model computes itself, which is not the loss
of a loop that works on logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import AdaLoraConfig, AdaLoraModel, PeftModel
from peft.tuners.adalora.layer import AdaLoraLayer

from kdlora.errors import ModelError, Problems
from kdlora.vocabulary.adapter_size import initial_rank

OPTIONS = ("init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight")
MIN_STEPS = 4  # fewer leave no step between the first importance scores and the last cut
_SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")
ALLOCATIONS = 50  # cuts of the budget in a run, as far as its steps allow


def settings(rank: int, options: dict[str, Any], *, total_steps: int) -> dict[str, Any]:
    """Arguments of `AdaLoraConfig` for a run of exactly `total_steps` optimizer steps.

    `rank` is the average rank at the end; training begins with 1.5 times as much, rounded up.
    A tenth of the steps warms up, half of them cut the budget, the rest trains what is left.
    Raises ModelError for a schedule that cannot reach its budget.
    """
    chosen = {
        "init_r": initial_rank(rank),
        "tinit": total_steps // 10,
        "tfinal": max(total_steps - total_steps // 10 - math.ceil(total_steps / 2), 0),
        "orth_reg_weight": 0.5,
        **options,
    }
    budgeting = total_steps - chosen["tinit"] - chosen["tfinal"]
    chosen.setdefault("deltaT", max(budgeting // ALLOCATIONS, 1))
    problems = Problems()
    if total_steps < MIN_STEPS:
        problems.add(
            f"adalora needs at least {MIN_STEPS} optimizer steps to allocate its ranks, but the "
            f"plan has {total_steps}: train longer, use more data or a smaller batch"
        )
    elif budgeting < 2 or min(chosen["tinit"], chosen["tfinal"]) < 0:
        problems.add(
            f"adalora: tinit {chosen['tinit']} and tfinal {chosen['tfinal']} leave no steps to cut "
            f"the budget in a run of {total_steps} steps"
        )
    if chosen["init_r"] <= rank:
        problems.add(
            f"adalora: init_r {chosen['init_r']} must be larger than the rank {rank} to be reached"
        )
    problems.raise_any(ModelError)
    return {**chosen, "target_r": rank, "total_step": total_steps}


def budget_reached(config: AdaLoraConfig) -> int:
    """The optimizer step after which the ranks are final."""
    assert config.total_step is not None
    return config.total_step - config.tfinal


def allocate(model: PeftModel, config: AdaLoraConfig, step: int) -> None:
    """Update importance scores and cut the budget after optimizer step `step` (the first is 1).

    Gradients must still be there. If the step of the last cut was skipped, the next one makes up
    for it; steps beyond the planned ones keep the ranks as they are.
    """
    tuner = cast(AdaLoraModel, model.base_model)
    last_cut = budget_reached(config)
    if step > last_cut and tuner.rankallocator.exp_avg_ipt:  # peft drops the scores once it is done
        tuner.update_and_allocate(last_cut)
    elif step < last_cut or config.rank_pattern or tuner.rankallocator.exp_avg_ipt:
        tuner.update_and_allocate(step)


def orthogonality(model: PeftModel, config: AdaLoraConfig) -> torch.Tensor:
    """``orth_reg_weight`` times the mean of ``||P P^T - I||_F`` over every A and B (the paper's R).

    Weights in bf16 or fp16 are taken in fp32.
    """
    norms = []
    for layer in _layers(model).values():
        for name in layer.active_adapters:
            for factor in (layer.lora_A[name], layer.lora_B[name].T):
                factor = factor.float()
                identity = torch.eye(factor.shape[0], device=factor.device)
                norms.append(torch.linalg.norm(factor @ factor.T - identity))
    return config.orth_reg_weight * torch.stack(norms).mean()


def kept_ranks(model: PeftModel, config: AdaLoraConfig) -> dict[str, int] | None:
    """Non-zero singular values per layer; None as long as the allocator has not cut anything."""
    if not config.rank_pattern:
        return None
    masks = _live(model)
    return {name: sum(masks[f"{name}.lora_E.{a}"]) for name, a in _active(model)}


@contextmanager
def exact_rank_pattern(model: PeftModel) -> Iterator[None]:
    """While saving, let the rank pattern name exactly the singular values that are not zero.

    peft cuts the saved factors by the pattern of the last allocation, which is not that of an
    earlier state restored since. Dropping only what is zero never changes the function.
    """
    config = cast(AdaLoraConfig, model.peft_config["default"])
    allocated = config.rank_pattern
    if allocated:
        config.rank_pattern = _live(model)
    try:
        yield
    finally:
        config.rank_pattern = allocated


def allocator_state(model: PeftModel, config: AdaLoraConfig) -> dict[str, Any]:
    """What the allocator has learned so far, for a checkpoint in the middle of training."""
    allocator = cast(AdaLoraModel, model.base_model).rankallocator
    scores = {key: dict(getattr(allocator, key)) for key in _SCORES}
    return {**scores, "rank_pattern": config.rank_pattern}


def load_allocator_state(model: PeftModel, config: AdaLoraConfig, state: dict[str, Any]) -> None:
    """Continue from an `allocator_state`."""
    allocator = cast(AdaLoraModel, model.base_model).rankallocator
    device = next(model.parameters()).device
    for key in _SCORES:
        setattr(allocator, key, {name: t.to(device) for name, t in state[key].items()})
    config.rank_pattern = state["rank_pattern"]


def _live(model: PeftModel) -> dict[str, list[bool]]:
    """Which singular values are not zero, under the names of peft's rank pattern."""
    layers = _layers(model)
    return {
        f"{name}.lora_E.{adapter}": (layers[name].lora_E[adapter] != 0).view(-1).tolist()
        for name, adapter in _active(model)
    }


def _active(model: PeftModel) -> list[tuple[str, str]]:
    return [(name, a) for name, layer in _layers(model).items() for a in layer.active_adapters]


def _layers(model: PeftModel) -> dict[str, Any]:
    return {
        name: module
        for name, module in model.get_base_model().named_modules()
        if isinstance(module, AdaLoraLayer)
    }
