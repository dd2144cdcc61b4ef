"""What the batches of either side hold, counted without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from benchmarks.peers import BATCH
from benchmarks.workload import make_workload
from kdlora.data.batches import padded_length, train_batches

_TEXTS, _DRAWS = 1600, 20  # as they were timed until 29 November 2026; epochs to average over


def first_steps(profile: str, steps: int, *, grouped: bool) -> float:
    """How much a ratio of the times of the first steps overstates that of whole epochs.

    The first step is left out, as it was not timed. `grouped`: the peer groups texts by length as
    the Trainer does, beginning with the longest; otherwise it draws them at random.
    """
    lengths = make_workload(profile, _TEXTS).texts.lengths
    longest = int(lengths.max())
    ours = train_batches(lengths, BATCH, np.random.default_rng([0, 0]))
    own = _share(ours, lengths, steps, lambda n: min(padded_length(n), longest))
    if not grouped:  # its steps are like any others
        return 1 / own
    theirs = []
    for seed in range(_DRAWS):
        generator = torch.Generator().manual_seed(seed)
        order = np.array(get_length_grouped_indices(lengths.tolist(), BATCH, generator=generator))
        theirs.append(_share(order.reshape(-1, BATCH), lengths, steps, lambda n: n))
    return float(np.mean(theirs)) / own


def _share(
    batches: Iterable[np.ndarray], lengths: np.ndarray, steps: int, padded: Callable[[int], int]
) -> float:
    """Padded tokens of a timed step over those of any step of the epoch."""
    held = np.array([len(batch) * padded(int(lengths[batch].max())) for batch in batches])
    return float(held[1 : steps + 1].mean() / held.mean())
