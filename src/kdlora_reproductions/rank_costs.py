"""Report 003: parameters, memory and inference time of the published table of costs, by rank."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kdlora.errors import InputError
from kdlora.evidence.diagnosis.public_facts import shape_of
from kdlora_reproductions import rank_costs_sound
from kdlora_reproductions.rank_costs_sound import METHODS, SOURCE
from kdlora_reproductions.tables import (
    Contradiction,
    PublishedClaim,
    PublishedReport,
    PublishedTable,
    long,
    make_claims,
    make_table,
    rows_of,
)

MEASURES = {"Memory Usage": "peak_memory_mb", "Inference Time": "inference_s"}


def cost_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Indexed by (family, method): model, one column a rank ("Rank 8", in millions), MB and s.

    A full fine-tuning has the same parameters under every rank. Raises InputError when a family
    lacks one of the three methods.
    """
    ranks = sorted(int(r) for r in frame["rank"].dropna().unique())
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    place: Any
    for place, group in frame.groupby(["pair", "Method"], sort=False):
        millions = group["trainable_params"] / 1e6
        of = {int(r): v for r, v in zip(group["rank"], millions, strict=True) if r == r}
        row: dict[str, Any] = {"model": group["Model"].iloc[0]}
        row |= {f"Rank {r}": of.get(r, float(millions.iloc[0])) for r in ranks}
        row |= {name: float(group[column].iloc[0]) for name, column in MEASURES.items()}
        rows[(str(place[0]), str(place[1]))] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(rows, names=["family", "method"])
    lacking = [
        f"{family} {method}"
        for family in dict.fromkeys(frame["pair"].astype(str))
        for method in ("FFT", *METHODS)
        if (family, method) not in rows
    ]
    if lacking:
        raise InputError(f"report 003 needs three methods a family; missing: {', '.join(lacking)}")
    return table


def rank_columns(costs: pd.DataFrame) -> list[str]:
    return [c for c in costs.columns if str(c).startswith("Rank ")]


def reductions(costs: pd.DataFrame, method: str, columns: list[str]) -> pd.DataFrame:
    """(FFT - method) / FFT by family."""
    fft, other = (pd.DataFrame(costs.xs(m, level="method"))[columns].astype(float)
                  for m in ("FFT", method))  # fmt: skip
    return (fft - other) / fft


def speedups(costs: pd.DataFrame, method: str) -> pd.Series:
    """FFT time / method time by family."""
    time = costs["Inference Time"].astype(float)
    return time.xs("FFT", level="method") / time.xs(method, level="method")


def report(frame: pd.DataFrame, runs: pd.DataFrame | None) -> PublishedReport:
    """`frame` is the imported table of costs, `runs` the imported trainings if they are at hand."""
    costs = cost_table(frame)
    return PublishedReport(
        "003",
        "Parameters, memory and inference time by LoRA rank",
        "Reductions against full fine-tuning from the published table; averages are means of "
        "three family ratios.",
        tables=_tables(costs),
        claims=_claims(costs),
        contradictions=_contradictions(costs),
        sound=rank_costs_sound.sound(costs, runs),
        figures=_figures(costs),
    )


def _tables(costs: pd.DataFrame) -> tuple[PublishedTable, ...]:
    ranks = rank_columns(costs)
    data = costs.copy()
    data.index = pd.MultiIndex.from_tuples(
        [(row["model"], method) for _, method, row in rows_of(costs)]
    )
    by_method = {m: reductions(costs, m, ranks) for m in METHODS}
    average = pd.DataFrame({m: table.mean() for m, table in by_method.items()})
    memory = pd.DataFrame({m: reductions(costs, m, ["Memory Usage"]).iloc[:, 0] for m in METHODS})
    speed = pd.DataFrame({m: speedups(costs, m) for m in METHODS})
    n = len(memory)
    return (
        make_table(
            "003.1",
            "Data summary",
            long(data.drop(columns="model"), 1),
            source=SOURCE,
            rule="as published, suffixes read as units",
        ),
        *(
            make_table(
                f"003.2.{m}",
                f"Parameter reduction, {m}",
                long(table, 1),
                source=SOURCE,
                rule="(FFT - method) / FFT",
            )
            for m, table in by_method.items()
        ),
        make_table(
            "003.2.avg",
            "Average parameter reduction",
            long(average, n),
            source=SOURCE,
            rule="mean of the family ratios",
        ),
        make_table(
            "003.3",
            "Memory reduction",
            long(memory, 1),
            source=SOURCE,
            rule="(FFT - method) / FFT",
        ),
        make_table(
            "003.4",
            "Inference speed-up",
            long(speed, 1),
            source=SOURCE,
            rule="FFT time / method time",
        ),
    )


def _claims(costs: pd.DataFrame) -> tuple[PublishedClaim, ...]:
    ranks = rank_columns(costs)
    memory = {m: reductions(costs, m, ["Memory Usage"]).iloc[:, 0] for m in METHODS}
    speed = {m: speedups(costs, m) for m in METHODS}
    n = len(speed["LoRA"])
    averages: Mapping[str, tuple[float, int]] = {
        "003.avg.mem_lora": (float(memory["LoRA"].mean()), n),
        "003.avg.mem_kd": (float(memory["KD-LoRA"].mean()), n),
        "003.avg.spd_lora": (float(speed["LoRA"].mean()), n),
        "003.avg.spd_kd": (float(speed["KD-LoRA"].mean()), n),
    }
    ranges = {}
    for method in METHODS:
        per_cent = 100 * reductions(costs, method, ranks)
        for rank in ranks:
            ranges[f"003.range.{method}.{rank}.lo"] = (float(per_cent[rank].min()), n)
            ranges[f"003.range.{method}.{rank}.hi"] = (float(per_cent[rank].max()), n)
        short = "lora" if method == "LoRA" else "kd"
        ranges[f"003.range.mem_{short}.lo"] = (100 * float(memory[method].min()), n)
        ranges[f"003.range.mem_{short}.hi"] = (100 * float(memory[method].max()), n)
    fastest = {"003.fastest": (str(speed["KD-LoRA"].idxmax()), n)}
    return (
        *make_claims(averages, source=SOURCE, rule="mean of the family ratios"),
        *make_claims(ranges, source=SOURCE, rule="least and greatest over families"),
        *make_claims(fastest, source=SOURCE, rule="greatest over families"),
    )


def _contradictions(costs: pd.DataFrame) -> tuple[Contradiction, ...]:
    found = []
    for method, rank in (
        ("LoRA", "Rank 8"), ("LoRA", "Rank 16"), ("KD-LoRA", "Rank 8"),
        ("KD-LoRA", "Rank 16"), ("KD-LoRA", "Rank 64"),
    ):  # fmt: skip
        if rank not in costs:
            continue
        values = 100 * reductions(costs, method, [rank])[rank]
        claim = make_claims(
            {f"003.range.{method}.{rank}.lo": (float(values.min()), len(values))},
            source=SOURCE,
            rule="",
        )[0]
        mean = f"{values.mean():.1f}"
        why = (
            "The printed low end is the average of the families."
            if mean == claim.printed
            else f"The least is {values.idxmin()}'s."
        )
        short = "LoRA" if method == "LoRA" else "KD"
        found.append(
            Contradiction(
                f"003.6.{short}_{rank.lower().replace(' ', '')}",
                f"{method} at {rank.lower()} reduces parameters by {claim.printed} % or more",
                {"least over families": round(float(values.min()), 1)},
                why,
            )
        )
    bert = _published_against_shape(costs)
    found += [
        Contradiction(
            "003.7.memory",
            "memory is the training peak with optimizer states",
            {"source says": "GPU memory during inference"},
            "The table's own paper measures inference; a training peak would hold gradients and "
            "two moments of every trained parameter.",
        ),
        Contradiction(
            "003.7.time",
            "time is one forward pass",
            {"source says": "mean of 100 runs over the CoLA validation set"},
            "A single pass takes milliseconds, not 4 to 16 s.",
        ),
        Contradiction(
            "003.1.params",
            "LoRA of rank 8 trains 2.9 M (BERT), KD-LoRA 1.2 M (DistilBERT)",
            {"query and value, M": bert},
            "LoRA on query and value has layers * 2 * rank * 2 * hidden parameters: the table "
            "is about ten (DistilBERT: eight) times too large.",
        ),
    ]
    return tuple(found)


def _published_against_shape(costs: pd.DataFrame) -> dict[str, float]:
    exact = {}
    for _, method, row in rows_of(costs):
        shape = shape_of(row["model"])
        if method in METHODS and shape is not None:
            exact[str(row["model"])] = round(shape.query_value(8) / 1e6, 3)
    return exact


def _figures(costs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The data of the bars, the lines by rank and the two heat maps, tidy."""
    ranks = rank_columns(costs)
    flat = costs.reset_index()
    by_rank = flat.melt(["family", "method", "model"], ranks, "rank", "params_m")
    by_rank["rank"] = by_rank["rank"].str.removeprefix("Rank ").astype(int)
    heat = pd.concat(
        [
            reductions(costs, m, ranks).reset_index().melt("family", ranks, "rank", "reduction")
            .assign(method=m)
            for m in METHODS
        ],
        ignore_index=True,
    )  # fmt: skip
    names = ["family", "method", "model"]
    return {
        "param_count_rank8": flat[[*names, "Rank 8"]] if "Rank 8" in flat else flat[names],
        "memory_usage": flat[[*names, "Memory Usage"]],
        "inference_time": flat[[*names, "Inference Time"]],
        "param_vs_rank": by_rank,
        "reduction_heatmap": heat,
    }
