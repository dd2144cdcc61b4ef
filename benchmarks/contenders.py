"""What takes part: functions that build a contender and return a callable to be timed.

Each callable does one round of its work and returns seconds a unit (an example, a text).
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks import peers
from benchmarks.ours import Ours
from benchmarks.workload import make_model, make_workload
from kdlora.data.batches import encode, train_batches
from kdlora.models.fused import team
from kdlora.models.fused.packed import pack, texts_per_part
from kdlora.training.forward import make_forward
from kdlora.training.inference import predict
from kdlora.training.precision import choose_compute, place_for_inference

Timed = Callable[[], float]
N_TEXTS = 1600  # one pool of 50 batches, within which both sides group by length


def training(kind: str, shape: str, profile: str, steps: int, lora: bool = True) -> Timed:
    """Training by kdlora ("ours", "ours-fp32") or by one of `benchmarks.peers`.

    "ours-shared" is kdlora with all threads sharing every operation, however large a batch is.
    """
    work = make_workload(profile, N_TEXTS)
    if kind == "ours-shared":
        team.LEAST = sys.maxsize  # the process is this contender's alone
    if kind.startswith("ours"):
        trainer = Ours(shape, lora=lora, precision="fp32" if kind == "ours-fp32" else "auto")
    elif kind == "online_teacher":
        trainer = peers.online_teacher(shape)
    else:
        trainer = getattr(peers, kind)(shape, lora=lora)
    return lambda: trainer.seconds_per_example(work, steps)


def matmuls(shape: str, profile: str, steps: int, lora: bool = True, packed: bool = False) -> Timed:
    """Nothing but the matrix products of kdlora's steps, at the shapes that occur in them.

    The last layer counts for the first tokens only, as kdlora computes it. With `packed` weights
    are laid out beforehand and batches computed in parts, which is the best that was found here.
    """
    compute = choose_compute()
    model = make_model(shape, attention="eager")
    weights = _layer_weights(model, compute.dtype)
    ready = [[pack(w, None) for w in layer] for layer in weights] if packed else []
    lengths = make_workload(profile, N_TEXTS).texts.lengths
    batches = train_batches(lengths, peers.BATCH, np.random.default_rng([0, 0]))[: steps + 1]
    sizes = [int(lengths[batch].max()) for batch in batches]
    width = weights[0][0].shape[1]
    inputs = {
        w.shape[i]: torch.randn(peers.BATCH * max(sizes), w.shape[i]).to(compute.dtype)
        for layer in weights
        for w in layer
        for i in (0, 1)
    }

    def product(layer: int, which: int, rows: int, *, backward: bool) -> None:
        weight = weights[layer][which]
        x = inputs[weight.shape[0 if backward else 1]][:rows]
        if packed:
            one = ready[layer][which]
            one.backward(x) if backward else one.forward(x)
        elif backward:
            x @ weight
        else:
            x @ weight.t()
        if backward and not lora:
            x.t() @ inputs[weight.shape[1]][:rows]

    def one_step(length: int) -> None:
        size = texts_per_part(peers.BATCH, length, width) if packed and lora else peers.BATCH
        for texts in [size] * (peers.BATCH // size) + [peers.BATCH % size] * bool(
            peers.BATCH % size
        ):
            for backward in (False, True):
                for layer in range(len(weights)):
                    last = layer == len(weights) - 1
                    for which in range(len(weights[layer])):
                        keys = which in (1, 2)  # of the last layer only these see all tokens
                        rows = texts * (length if keys or not last else 1)
                        product(layer, which, rows, backward=backward)

    def run() -> float:
        one_step(sizes[0])
        started = time.perf_counter()
        for length in sizes[1:]:
            one_step(length)
        return (time.perf_counter() - started) / (steps * peers.BATCH)

    return lambda: _without_gradients(run)


def labelling(kind: str, shape: str, profile: str, n: int = 512) -> Timed:
    """Scoring raw texts, tokenising included: kdlora's `predict` or transformers' pipeline."""
    tokenizer = peers.tokenizer()
    made = make_workload(profile, n).texts
    bounds = itertools.pairwise(made.offsets)  # two of the tokens are [CLS] and [SEP]
    texts = [" ".join(f"w{i}" for i in made.ids[a + 1 : b - 1]) for a, b in bounds]
    if kind == "ours":
        compute = choose_compute()
        model = place_for_inference(make_model(shape, attention=compute.attention), compute)
        forward = make_forward(model, compute)

        def score() -> None:
            encoded = encode(tokenizer, (texts,), max_length=peers.MAX_LENGTH)
            predict(model, encoded, compute, forward=forward)
    else:
        from transformers import pipeline

        pipe = pipeline(
            "text-classification",
            model=make_model(shape, attention="sdpa").eval(),
            tokenizer=tokenizer,
            device="cpu",
        )

        def score() -> None:
            pipe(texts, batch_size=32, truncation=True, max_length=peers.MAX_LENGTH)

    def run() -> float:
        started = time.perf_counter()
        score()
        return (time.perf_counter() - started) / n

    return run


def _layer_weights(model: nn.Module, dtype: torch.dtype) -> list[list[torch.Tensor]]:
    """The linear weights of each encoder layer: query, key, value, output, up, down."""
    layers = next(m for m in model.modules() if isinstance(m, nn.ModuleList))
    return [
        [m.weight.detach().to(dtype) for m in layer.modules() if isinstance(m, nn.Linear)]
        for layer in layers
    ]


def _without_gradients(run: Timed) -> float:
    with torch.no_grad():
        return run()
