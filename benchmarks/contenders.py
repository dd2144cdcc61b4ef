"""What takes part: functions that build a contender and return a callable to be timed.

Each callable does one round of its work and returns seconds a unit (an example, a text).
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

from benchmarks import peers, products
from benchmarks.ours import Ours
from benchmarks.workload import N_TEXTS, make_model, make_workload
from kdlora.data.batches import encode
from kdlora.models.fused import team
from kdlora.training.forward import make_forward
from kdlora.training.inference import predict
from kdlora.training.precision import choose_compute, ready_for_inference

Timed = Callable[[], float]
N_LABELLED = 512  # texts


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


def products_of_training(
    shape: str, profile: str, steps: int, lora: bool = True, packed: bool = False
) -> Timed:
    """Nothing but the matrix products of the layers in kdlora's steps.

    With `packed` frozen weights are laid out beforehand and batches computed in parts.
    """
    batches = products.training_batches(profile, steps)
    needed = products.products_of(shape, trains="adapters" if lora else "everything", packed=packed)
    return lambda: products.timed(needed, batches, skip=1)


def products_of_labelling(shape: str, profile: str, n: int = N_LABELLED) -> Timed:
    """The same for labelling, tokenising left out."""
    batches = products.labelling_batches(profile, n)
    needed = products.products_of(shape, trains="nothing")
    return lambda: products.timed(needed, batches, skip=0)


def labelling(kind: str, shape: str, profile: str, n: int = N_LABELLED) -> Timed:
    """Scoring raw texts, tokenising included: kdlora's `predict` or transformers' pipeline."""
    tokenizer = peers.tokenizer()
    made = make_workload(profile, n).texts
    bounds = itertools.pairwise(made.offsets)  # two of the tokens are [CLS] and [SEP]
    texts = [" ".join(f"w{i}" for i in made.ids[a + 1 : b - 1]) for a, b in bounds]
    if kind == "ours":
        compute = choose_compute()
        model = ready_for_inference(make_model(shape, attention=compute.attention), compute)
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
