"""What takes part: functions that build a contender and return a callable to be timed.

Each callable does one round of its work, on all texts of its group, and returns a `Turn`.
"""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import peers, products
from benchmarks.ours import Ours, counted
from benchmarks.turns import Tally, Turn
from benchmarks.workload import make_model, make_workload, with_usual_words
from kdlora.data.batches import encode
from kdlora.models.fused import team
from kdlora.training import row_updates
from kdlora.training.forward import make_forward
from kdlora.training.inference import predict
from kdlora.training.precision import choose_compute, ready_for_inference

Timed = Callable[[], Turn]


def training(kind: str, shape: str, profile: str, rows: int, lora: bool = True) -> Timed:
    """An epoch by kdlora ("ours", "ours-fp32") or by one of `benchmarks.peers`.

    "ours-shared" is kdlora with all threads sharing every operation, however large a batch is.
    """
    work = make_workload(profile, rows)
    if kind == "ours-shared":
        team.LEAST = sys.maxsize  # the process is this contender's alone
    if kind.startswith("ours"):
        ours = Ours(shape, lora=lora, precision="fp32" if kind == "ours-fp32" else "auto")
        return lambda: ours.epoch(work)
    peer = peers.PEERS[kind](shape, lora)
    return lambda: peer.epoch(work)


def variant_training(variant: str, shape: str, profile: str, rows: int) -> Timed:
    """An epoch by kdlora of a student that is distilled with a variant of LoRA."""
    work = make_workload(profile, rows)
    ours = Ours(shape, variant=variant, steps=math.ceil(rows / peers.BATCH))
    return lambda: ours.epoch(work)


def embeddings_training(by_row: bool, shape: str, profile: str, rows: int) -> Timed:
    """An epoch of full fine-tuning by kdlora, its embeddings updated by row or whole."""
    ours = Ours(shape, lora=False)
    model: Any = ours.model
    vocabulary = model.get_input_embeddings().num_embeddings
    work = with_usual_words(make_workload(profile, rows), vocabulary)
    if not by_row:
        row_updates.FEWEST_ROWS = sys.maxsize  # the process is this contender's alone
    return lambda: ours.epoch(work)


def products_of_training(
    shape: str, profile: str, rows: int, lora: bool = True, packed: bool = False
) -> Timed:
    """Nothing but the matrix products of the layers in kdlora's epoch.

    With `packed` frozen weights are laid out beforehand and batches computed in parts.
    """
    batches = products.training_batches(profile, rows)
    needed = products.products_of(shape, trains="adapters" if lora else "everything", packed=packed)
    return lambda: products.timed(needed, batches)


def products_of_labelling(shape: str, profile: str, rows: int) -> Timed:
    """The same for labelling, tokenising left out."""
    batches = products.labelling_batches(profile, rows)
    needed = products.products_of(shape, trains="nothing")
    return lambda: products.timed(needed, batches)


def labelling(kind: str, shape: str, profile: str, rows: int) -> Timed:
    """Scoring raw texts, tokenising included.

    By kdlora's `predict` ("ours"), transformers' pipeline ("pipeline") or a loop of one's own
    ("loop").
    """
    made = make_workload(profile, rows).texts
    bounds = itertools.pairwise(made.offsets)  # two of the tokens are [CLS] and [SEP]
    texts = [" ".join(f"w{i}" for i in made.ids[a + 1 : b - 1]) for a, b in bounds]
    score = {"ours": _our_labels, "pipeline": peers.pipeline_labels, "loop": peers.loop_labels}[
        kind
    ](shape)

    def run() -> Turn:
        tally = Tally()
        begun = time.perf_counter()
        settings = score(texts, tally)
        return Turn.of(time.perf_counter() - begun, tally, settings)

    return run


def _our_labels(shape: str) -> peers.Labels:
    compute = choose_compute()
    model = ready_for_inference(make_model(shape, attention=compute.attention), compute)
    forward, tokenizer = make_forward(model, compute), peers.tokenizer()

    def score(texts: list[str], tally: Tally) -> str:
        encoded = encode(tokenizer, (texts,), max_length=peers.MAX_LENGTH)
        predict(model, encoded, compute, forward=counted(forward, tally))
        return compute.name

    return score
