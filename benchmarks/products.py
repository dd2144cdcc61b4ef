"""The matrix products that kdlora's work cannot do without, alone: what its speed is held against.

Those of the layers with their frozen or trained weights, at the lengths that occur. What the head
does not read is left out, as kdlora leaves it out: the last layer counts for the first token of
each text, but for its keys and values; and with frozen embeddings nothing needs the gradient of
what the first layer's attention reads. Adapters, attention and the head come on top, uncounted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from benchmarks.peers import BATCH
from benchmarks.turns import Tally, Turn
from benchmarks.workload import make_model, make_workload
from kdlora.data.batches import eval_batches, padded_length, train_batches
from kdlora.models.fused.packed import Packed, pack, texts_per_part
from kdlora.training.inference import CPU_TEXTS, CPU_TOKENS
from kdlora.training.precision import choose_compute


@dataclass(frozen=True)
class Batch:
    texts: int
    length: int  # padded


@dataclass(frozen=True)
class Product:
    """A linear layer [o, i], or several that read the same, and for which tokens it is computed."""

    weight: torch.Tensor
    all_tokens: bool
    input_gradient: bool
    weight_gradient: bool
    packed: Packed | None = None

    def rows(self, batch: Batch) -> int:
        return batch.texts * (batch.length if self.all_tokens else 1)

    def flops(self, batch: Batch) -> int:
        times = 1 + self.input_gradient + self.weight_gradient
        return 2 * times * self.rows(batch) * self.weight.numel()

    def forward(self, x: torch.Tensor) -> None:
        x @ self.weight.t() if self.packed is None else self.packed.forward(x)

    def backward(self, x: torch.Tensor, grad: torch.Tensor) -> None:
        if self.input_gradient:
            grad @ self.weight if self.packed is None else self.packed.backward(grad)
        if self.weight_gradient:
            grad.t() @ x


def training_batches(profile: str, n: int) -> list[Batch]:
    """Those of kdlora's first epoch of n texts."""
    texts = make_workload(profile, n).texts
    batches = train_batches(texts.lengths, BATCH, np.random.default_rng([0, 0]))
    return [_padded(texts.lengths[batch], texts.longest) for batch in batches]


def labelling_batches(profile: str, n: int) -> list[Batch]:
    texts = make_workload(profile, n).texts
    batches = eval_batches(texts.lengths, tokens=CPU_TOKENS, largest=CPU_TEXTS)
    return [_padded(texts.lengths[batch], texts.longest) for batch in batches]


def _padded(lengths: np.ndarray, longest: int) -> Batch:
    return Batch(len(lengths), min(padded_length(int(lengths.max())), longest))


def products_of(
    shape: str, *, trains: str, dtype: torch.dtype | None = None, packed: bool = False
) -> list[Product]:
    """In the order of a forward pass. `trains`: "adapters", "everything" or "nothing"."""
    dtype = dtype or choose_compute().dtype
    made: list[Product] = []
    layers = _layer_weights(make_model(shape, attention="eager"), dtype)
    for i, (query, key, value, out, up, down) in enumerate(layers):
        if i < len(layers) - 1:
            attention = [(torch.cat([query, key, value]), True)]
            every = True
        else:
            attention, every = [(query, False), (torch.cat([key, value]), True)], False
        for weight, tokens in [*attention, (out, every), (up, every), (down, every)]:
            of_attention = any(weight is w for w, _ in attention)
            made.append(
                Product(
                    weight,
                    tokens,
                    trains == "everything"
                    or (trains == "adapters" and not (i == 0 and of_attention)),
                    trains == "everything",
                    pack(weight, None) if packed else None,
                )
            )
    return made


def flops_per_text(products: Sequence[Product], batches: Sequence[Batch]) -> float:
    total = sum(product.flops(batch) for product in products for batch in batches)
    return total / sum(batch.texts for batch in batches)


def compute(products: Sequence[Product], batches: Sequence[Batch]) -> Callable[[Batch], None]:
    """A function that does all products of one batch, forward and then backward.

    Packed ones are computed in the parts that kdlora would choose, which is the best found.
    """
    most = max(batch.texts * batch.length for batch in batches)
    widths = {n for product in products for n in product.weight.shape}
    inputs = {n: torch.randn(most, n).to(products[0].weight.dtype) for n in widths}
    in_parts = products[0].packed is not None
    width = products[0].weight.shape[1]
    backwards = any(p.input_gradient or p.weight_gradient for p in products)

    def part(batch: Batch) -> None:
        for product in products:
            product.forward(inputs[product.weight.shape[1]][: product.rows(batch)])
        for product in reversed(products) if backwards else ():
            o, i = product.weight.shape
            rows = product.rows(batch)
            product.backward(inputs[i][:rows], inputs[o][:rows])

    def whole(batch: Batch) -> None:
        size = texts_per_part(batch.texts, batch.length, width) if in_parts else batch.texts
        for start in range(0, batch.texts, size):
            part(Batch(min(size, batch.texts - start), batch.length))

    return whole


def timed(products: Sequence[Product], batches: Sequence[Batch]) -> Turn:
    """One round of all products of all batches."""
    one, tally = compute(products, batches), Tally()
    with torch.no_grad():
        begun = time.perf_counter()
        for batch in batches:
            one(batch)
            tally.note(batch.texts, batch.length)
        return Turn.of(time.perf_counter() - begun, tally)


def _layer_weights(model: nn.Module, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """The linear weights of each encoder layer: query, key, value, output, up, down."""
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    return [
        [m.weight.detach().to(dtype) for m in layer.modules() if isinstance(m, nn.Linear)]
        for layer in layers
    ]
