"""Long texts read whole: in overlapping windows of tokens, whose outputs are pooled.

What an encoder says of a text is then the mean or the maximum of what it says of its windows, as in
Pappagari et al. (2019), "Hierarchical transformers for long document classification", without a
second network on top. A text that fits into one window is read as it always was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kdlora.spec.sections import Pooling, Windows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TextWindows:
    """Which rows of token ids are windows of which text: text i has rows offsets[i]:offsets[i + 1].

    `partly` are the texts that have more windows than are read.
    """

    offsets: np.ndarray  # [n + 1] int64
    partly: np.ndarray  # [n] bool
    pooling: Pooling

    @property
    def counts(self) -> np.ndarray:
        """Windows of each text that are read, [n]."""
        return np.diff(self.offsets)

    def rows(self, index: np.ndarray) -> np.ndarray:
        """The rows of the texts at `index`, text by text."""
        counts = self.counts[index]
        starts = np.repeat(self.offsets[index] - np.cumsum(counts) + counts, counts)
        return starts + np.arange(counts.sum())

    def pool(self, values: np.ndarray) -> np.ndarray:
        """From outputs of all rows [m, c] to those of the texts [n, c]."""
        if not len(self.counts):
            return values[:0]
        if self.pooling == "max":
            return np.maximum.reduceat(values, self.offsets[:-1], axis=0)
        return self.mean(values)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The means of the rows [m, c] of each text, [n, c], whatever the pooling."""
        sums = np.add.reduceat(values, self.offsets[:-1], axis=0)
        return (sums / self.counts[:, None]).astype(values.dtype)

    def pool_tensor(
        self, values: torch.Tensor, index: np.ndarray, how: Pooling | None = None
    ) -> torch.Tensor:
        """From what a batch's rows give, [rows] or [rows, c], to that of its texts at `index`."""
        import torch

        counts = torch.from_numpy(self.counts[index]).to(values.device)
        return torch.segment_reduce(values, how or self.pooling, lengths=counts, axis=0)


def read_windows(counts: np.ndarray, most: int, pooling: Pooling) -> tuple[np.ndarray, TextWindows]:
    """Which of all windows are read, boolean [windows], and whose they are.

    Args:
        counts: windows of each text, [n], one at least.
        most: a text with more is read in so many, evenly spread, the first and the last among them.
    """
    read = np.ones(int(counts.sum()), dtype=bool)
    starts = np.cumsum(counts) - counts
    partly = counts > most
    for i in np.flatnonzero(partly):
        own = read[starts[i] : starts[i] + counts[i]]
        own[:] = False
        own[np.round(np.linspace(0, counts[i] - 1, most)).astype(np.int64)] = True
    offsets = np.concatenate([[0], np.cumsum(np.minimum(counts, most))]).astype(np.int64)
    return read, TextWindows(offsets, partly, pooling)


def count_windows(
    lengths: np.ndarray, max_length: int, windows: Windows, *, special: int
) -> np.ndarray:
    """In how many windows inputs of so many tokens [n] are read, before they are tokenised: [n].

    Both `lengths` and `max_length` count the `special` tokens that stand in every window. Of pairs
    it is what the longer text takes.
    """
    beyond = np.maximum(np.asarray(lengths) - max_length, 0)
    wanted = 1 + np.ceil(beyond / _new_tokens(max_length, windows, special))
    return np.minimum(wanted, windows.max_windows)


def longest_read(max_length: int, windows: Windows, *, special: int) -> int:
    """The tokens of the longest input of which no window is left out."""
    return max_length + (windows.max_windows - 1) * _new_tokens(max_length, windows, special)


def _new_tokens(max_length: int, windows: Windows, special: int) -> int:
    """What a window reads that the one before it has not read."""
    return max_length - special - windows.overlap(max_length)
