"""What goes on inside an encoder: hidden states, and the queries, keys and values of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kdlora.errors import ModelError
from kdlora.models.families import FAMILIES

# inputs of a batch (tensors [b, l]) -> logits [b, c] fp32 and states by name, each [b, l, width]
StateForward = Callable[[dict[str, torch.Tensor]], tuple[torch.Tensor, dict[str, torch.Tensor]]]


@dataclass(frozen=True)
class Wanted:
    """Which states of one model: hidden ones by layer (0 is the embeddings' output), and the
    projections ("q", "k", "v") of one layer, counted from 1."""

    hidden: tuple[int, ...] = ()
    layer: int | None = None
    projections: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """``hidden.<layer>``, ``q``, ``k`` and ``v``, as far as they are wanted."""
        return (*(f"hidden.{i}" for i in self.hidden), *self.projections)

    def features(self, width: int) -> dict[str, slice]:
        """Where each state stands when all of a token's are laid side by side."""
        return {name: slice(i * width, (i + 1) * width) for i, name in enumerate(self.names)}


def run_with_states(
    model: nn.Module, inputs: Mapping[str, torch.Tensor], wanted: Wanted
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """One plain forward pass: logits [b, c] and the wanted states, each [b, longest, width].

    States are keyed ``hidden.<layer>``, ``q``, ``k`` and ``v``. Those of padding are there too.
    Raises ModelError where a family's projections are not known.
    """
    seen: dict[str, torch.Tensor] = {}
    with _listen(model, wanted, seen):
        output = model(**inputs, output_hidden_states=bool(wanted.hidden))
    for layer in wanted.hidden:
        seen[f"hidden.{layer}"] = output.hidden_states[layer]
    return output.logits, seen


@contextmanager
def _listen(model: nn.Module, wanted: Wanted, seen: dict[str, torch.Tensor]) -> Iterator[None]:
    """Hooks on the projections of one layer, for as long as the pass takes."""
    handles = []
    try:
        if wanted.layer is not None:
            for kinds, module, call in _projections(model, wanted.layer):
                if set(kinds) & set(wanted.projections):
                    hook = _hook(kinds, call, wanted.projections, seen)
                    handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(kinds: str, call: int, wanted: str, seen: dict[str, torch.Tensor]) -> Callable[..., None]:
    """Keeps what call number `call` of a module returns, as far as it is wanted."""
    calls = 0

    def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        nonlocal calls
        if calls == call:
            parts = output.chunk(len(kinds), dim=-1)
            seen.update((k, x) for k, x in zip(kinds, parts, strict=True) if k in wanted)
        calls += 1

    return keep


def _projections(model: nn.Module, layer: int) -> list[tuple[str, nn.Module, int]]:
    """(kinds, module, number of its call) for a layer counted from 1.

    DeBERTa calls a layer's projections again for its relative positions, but for the tokens
    first; ALBERT's only layer is called once for every layer.
    """
    config: Any = model.config
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise ModelError(unknown_projections(config.model_type))
    found = []
    names = family.projections
    for kinds, name in zip(("qkv",) if len(names) == 1 else ("q", "k", "v"), names, strict=True):
        modules = [m for n, m in model.named_modules() if n.endswith("." + name)]
        if len(modules) == config.num_hidden_layers:
            found.append((kinds, modules[layer - 1], 0))
        elif len(modules) == 1:
            found.append((kinds, modules[0], layer - 1))
        else:
            raise ModelError(
                f"relations: a {config.model_type} model of {config.num_hidden_layers} layers has "
                f"{len(modules)} modules '{name}', so a layer's own cannot be told"
            )
    return found


def unknown_projections(model_type: str) -> str:
    """What to say of a family whose projections are not known."""
    return (
        f"relations: where a '{model_type}' model computes queries, keys and values is not known; "
        f"known are {', '.join(FAMILIES)}. Use hidden instead"
    )
