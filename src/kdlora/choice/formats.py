"""Size and latency of a model in each form: as measured, or estimated by a rule that is stated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kdlora.evidence.result import Result, finite
from kdlora.evidence.scores import numbers

MEASURED, SAME, ESTIMATED = "measured", "same architecture", "estimated"


@dataclass(frozen=True)
class Form:
    """A way to ship a model, and what it costs where nothing was measured.

    bytes_per_parameter: INT4 keeps scales, and its LayerNorms and biases in fp32. speed: how many
    times faster than PyTorch fp32 at batch 1 on a processor (DistilBERT size, 2 threads: INT8 2.5
    to 3 times, INT4 1.3 to 1.6 times); the lower end is taken.
    """

    title: str
    runtime: str
    quantization: str
    bytes_per_parameter: float
    speed: float


FORMS = {
    "torch": Form("PyTorch", "torch", "none", 4.0, 1.0),
    "onnx": Form("ONNX", "onnx", "none", 4.0, 1.0),
    "onnx-int8": Form("ONNX INT8", "onnx", "int8", 1.0, 2.5),
    "onnx-int4": Form("ONNX INT4", "onnx", "int4", 0.66, 1.3),
}


@dataclass(frozen=True)
class Cost(Result):
    """A value and where it comes from; `basis` is measured, same architecture or estimated."""

    value: float | None
    basis: str
    source: str

    @property
    def known(self) -> bool:
        return self.value is not None


@dataclass(frozen=True)
class TextLatency:
    """One text at a time (batch 1) of `length` tokens."""

    length: int
    latency_p50_ms: float
    latency_p95_ms: float


@dataclass(frozen=True)
class MeasuredForm:
    """What an export measured on one of its files."""

    run_id: str
    encoder: str
    form: str
    folder: str
    size_mb: float
    gate: str = "not applicable"
    score: float | None = None
    timings: tuple[TextLatency, ...] = field(default=())

    def at(self, length: int | None) -> TextLatency | None:
        """The timing at that length, or the nearest longer one, or the longest."""
        if not self.timings or length is None:
            return None
        longer = [t for t in self.timings if t.length >= length]
        return min(longer, key=lambda t: t.length) if longer else max(
            self.timings, key=lambda t: t.length
        )  # fmt: skip


def nearest_length(rows: pd.DataFrame, exports: Sequence[MeasuredForm]) -> int | None:
    """Tokens at which to compare: that of the exports next above the records', or the records'."""
    known = [p["seq_length"] for p in rows.get("protocol", ()) if p and p.get("seq_length")]
    recorded = int(max(set(known), key=known.count)) if known else None
    timed = sorted({t.length for e in exports for t in e.timings})
    if not timed:
        return recorded
    if recorded is None:
        return timed[-1]
    return next((length for length in timed if length >= recorded), timed[-1])


def speed_ratios(exports: Sequence[MeasuredForm]) -> dict[str, Cost]:
    """How many times faster than PyTorch fp32 each form is: as exports measured, else as stated."""
    found = {}
    for form, facts in FORMS.items():
        ratios = []
        for export in exports:
            plain = next(
                (e for e in exports if e.folder == export.folder and e.form == "torch"), None
            )
            if export.form == form != "torch" and plain is not None:
                lengths = {t.length: t for t in plain.timings}
                ratios += [
                    lengths[t.length].latency_p50_ms / t.latency_p50_ms
                    for t in export.timings
                    if t.length in lengths and t.latency_p50_ms > 0
                ]
        if ratios:
            mean = float(np.exp(np.mean(np.log(ratios))))
            found[form] = Cost(mean, MEASURED, "the ratio measured on this study's exports")
        else:
            found[form] = Cost(facts.speed, ESTIMATED, "a stated ratio")
    return found


def form_size(
    form: str, models: pd.DataFrame, own: Sequence[MeasuredForm], kin: Sequence[MeasuredForm]
) -> Cost:
    """MB on disk: of the export, of another run's export, of the record, or parameters x bytes."""
    if own:
        return Cost(own[0].size_mb, MEASURED, f"the export in {own[0].folder}")
    if kin:
        return Cost(kin[0].size_mb, SAME, f"the export of {kin[0].run_id}, the same encoder")
    sizes = numbers(models["size_mb"]) if "size_mb" in models else np.array([np.nan])
    sizes = sizes[np.isfinite(sizes)]
    if form == "torch" and len(sizes):
        return Cost(float(np.median(sizes)), MEASURED, "the merged fp32 model on disk, by its run")
    per = FORMS[form].bytes_per_parameter
    if len(sizes):
        parameters = float(np.median(sizes)) / FORMS["torch"].bytes_per_parameter  # in millions
    else:
        counts = numbers(models["total_params"]) if "total_params" in models else np.array([np.nan])
        counts = counts[np.isfinite(counts)]
        if not len(counts):
            return Cost(None, ESTIMATED, "its parameters are not known")
        parameters = float(np.median(counts)) / 1e6
    return Cost(parameters * per, ESTIMATED, f"{parameters:.1f} M parameters x {per:g} bytes")


def latency_of(
    which: str,
    form: str,
    alike: pd.DataFrame,
    own: Sequence[MeasuredForm],
    kin: Sequence[MeasuredForm],
    ratios: dict[str, Cost],
    length: int | None,
) -> Cost:
    """Milliseconds for one text of `length` tokens; `alike` are the runs of the same encoder.

    From an export, or from the median over the runs of the encoder (whatever its weights, it is as
    fast), scaled by the ratio of the form and by the length where these differ.
    """
    name = f"latency_{which}_ms"
    for exports, basis in ((own, MEASURED), (kin, SAME)):
        for export in exports:
            timing = export.at(length)
            if timing is not None:
                where = f"the export of {export.run_id}, one text of {timing.length} tokens"
                return Cost(float(getattr(timing, name)), basis, where)
    runs = alike.drop_duplicates("run_id")
    values = numbers(runs[name]) if name in runs else np.array([np.nan])
    good = np.isfinite(values) & (values > 0)
    if not good.any():
        return Cost(None, ESTIMATED, "no latency was measured")
    protocols = runs["protocol"][good] if "protocol" in runs else ()
    protocol: dict[str, Any] = next((p for p in protocols if p), {})
    tokens = protocol.get("seq_length")
    base = float(np.median(values[good]))
    n = int(good.sum())
    where = f"PyTorch {protocol.get('dtype', '')}".rstrip()
    where += f", one text of {tokens} tokens" if tokens else ""
    where += f", median of {n} runs of this encoder" if n > 1 else ""
    scaled = length / tokens if length and tokens else 1.0
    if form == "torch" and scaled == 1.0:
        return Cost(base, MEASURED, where)
    ratio = ratios[form]
    parts = [] if form == "torch" else [f"divided by {ratio.value:.2g} ({ratio.source})"]
    parts += [f"times {scaled:.2g} for {length} tokens"] if scaled != 1.0 else []
    value = finite(base * scaled / (ratio.value or 1.0))
    return Cost(value, ESTIMATED, f"{where}, {', '.join(parts)}")
