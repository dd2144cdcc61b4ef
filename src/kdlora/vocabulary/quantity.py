"""Every measured column that is shown: what it is called, its unit, and which way is better.

This module is the only place that knows these facts. Tables, charts and sentences list columns;
how a column is headed, in which unit its numbers are written and on what scale they are drawn they
ask a `Quantity`. Scores are no quantities: they follow their metric (`vocabulary.metric`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quantity:
    """One column of the frame.

    Attributes:
        label: heads a column of a table.
        noun: inside a sentence.
        unit: of the stored numbers; "" for a count.
        shown_unit: of the numbers as they are written, each `per` stored units.
        direction: +1 where more is better, -1 where less is.
        log: drawn on a logarithmic scale; its numbers are positive and span orders of magnitude.
        format: "number" for three digits in the shown unit, "amount" for a count with a letter
            (48.2 k), which needs no unit in its head.
        axis: beside a chart, where that says more than the label.
        short: where a terminal's 80 columns have to hold many.
    """

    column: str
    label: str
    noun: str
    unit: str = ""
    shown_unit: str = ""
    per: float = 1.0
    direction: Literal[1, -1] = -1
    log: bool = True
    format: Literal["number", "amount"] = "number"
    axis: str = ""
    short: str = ""

    @property
    def head_unit(self) -> str:
        """The unit in the head of a table's column."""
        return "" if self.format == "amount" else self.shown_unit or self.unit

    @property
    def cost_unit(self) -> str:
        """What one shown unit is called where something is put into relation to it."""
        return self.shown_unit or self.unit

    @property
    def axis_title(self) -> str:
        """Beside a chart of the stored numbers, with their unit."""
        return ", ".join(filter(None, (self.axis or self.label, self.unit)))


QUANTITIES: dict[str, Quantity] = {
    one.column: one
    for one in (
        Quantity("trainable_params", "Trained parameters", "trained parameters", shown_unit="M",
                 per=1e6, format="amount", short="trained"),
        Quantity("total_params", "All parameters", "parameters", shown_unit="M", per=1e6,
                 format="amount", short="params"),
        Quantity("size_mb", "Size", "size", "MB", axis="Size of the merged model", short="size"),
        Quantity("train_s", "Training", "training time", "s", short="train s"),
        Quantity("inference_s", "Inference", "inference time", "s"),
        Quantity("peak_memory_mb", "Peak memory", "memory", "MB", short="memory"),
        Quantity("train_flops", "Training", "FLOPs of training", "FLOP", "TFLOP", 1e12),
        Quantity("forward_flops", "One text", "FLOPs of one text", "FLOP", "GFLOP", 1e9),
        Quantity("latency_p50_ms", "Latency, median", "latency", "ms",
                 axis="Median latency of one text", short="latency"),
        Quantity("latency_p95_ms", "Latency, p95", "latency at p95", "ms"),
        Quantity("throughput_per_s", "Throughput", "throughput", "texts/s", direction=1),
        Quantity("speedup_latency", "Speed-up", "speed-up", "\N{MULTIPLICATION SIGN}",
                 direction=1),
        Quantity("energy_j", "Energy, training", "energy", "J", axis="Energy of training"),
        Quantity("rank", "Rank", "rank", log=False, axis="Rank of the adapter"),
    )
}  # fmt: skip


def quantity(column: str) -> Quantity:
    """The quantity of a column. Never raises: an unknown one is called as the column is."""
    known = QUANTITIES.get(column)
    return known or Quantity(column, column, column, log=False, short=column)


def directions(columns: Iterable[str]) -> dict[str, int]:
    """Which way is better for each of the columns."""
    return {column: quantity(column).direction for column in columns}
