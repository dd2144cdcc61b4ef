"""Report 001's questions answered on paired cells, levels of evidence kept apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from kdlora.evidence.aggregates import aggregate, shared_cells
from kdlora.evidence.compare import compare_many
from kdlora.evidence.comparison import Comparison
from kdlora.evidence.ranks import rank_methods
from kdlora.evidence.result import Rules
from kdlora.evidence.sentences import scope_text
from kdlora.vocabulary.arm import Arm
from kdlora_reproductions import significance_costs
from kdlora_reproductions.rows import SHOWN, comparison_table, significant
from kdlora_reproductions.significance import FAMILY_PAIRS, VARIANTS
from kdlora_reproductions.tables import Sound

LORA_ONLY = [str(Arm("teacher", variant)) for variant in VARIANTS]
KD_LORA = [str(Arm("student", variant, "kd")) for variant in VARIANTS]

SCORES = {"score": "reported checkpoint", "last_epoch_metric": "last epoch"}
SOURCE = "B742"


def sound(
    snapshots: Mapping[str, pd.DataFrame], rng: np.random.Generator, rules: Rules
) -> tuple[Sound, ...]:
    """The careful answers, from all 742 runs."""
    runs = significance_costs.with_setup(snapshots["B742"])
    return (
        *_lora_against_kd(runs, rng, rules),
        *_against_fft(runs, rng, rules),
        _families(runs, rng, rules),
        _retention(runs, rng, rules),
        *_ranks(runs),
        significance_costs.correlations(runs, rng, rules),
        significance_costs.costs(runs, rng, rules),
        significance_costs.parameters(snapshots),
    )


def _lora_against_kd(runs: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> list[Sound]:
    found = []
    contrasts = list(zip(LORA_ONLY, KD_LORA, strict=True))
    for column, name in SCORES.items():
        if column not in runs:
            continue
        made = compare_many(runs, contrasts, rng=rng, score=column, rules=rules)
        table = comparison_table(made, VARIANTS)
        caution = (
            "The reported checkpoints of KD-LoRA were chosen by a meaningless loss."
            if column == "score"
            else "Free of the choice of a checkpoint."
        )
        found.append(
            Sound(
                f"001.lora_vs_kd.{column}",
                f"Does KD-LoRA lose against LoRA-only ({name})?",
                f"{_verdicts(made)} {caution} Student size and distillation "
                "are confounded: no student was trained without distillation.",
                table,
                SOURCE,
                int(table["n_runs"].sum()),
                "LoRA-only minus KD-LoRA, paired by family, task and seed",
                SHOWN,
            )
        )
    return found


def _verdicts(made: Sequence[Comparison]) -> str:
    """What `kdlora compare` says of the six variants, in one sentence."""
    told = [c for c in made if c.verdict in ("superior", "inferior")]
    if not told:
        return f"None of {len(made)} variants is told apart after Holm."
    names = ", ".join(Arm.read(c.a).adaptation for c in told)
    sizes = sorted(abs(c.claim.difference or 0.0) for c in told)
    return (
        f"{len(told)} of {len(made)} variants are told apart {scope_text(told[0].claim)} after "
        f"Holm ({names}): by {sizes[0]:.1f} to {sizes[-1]:.1f} points."
    )


def _against_fft(runs: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> list[Sound]:
    found = []
    for name, arms in (("LoRA-only", LORA_ONLY), ("KD-LoRA", KD_LORA)):
        contrasts = [(arm, "teacher/fft") for arm in arms]
        made = compare_many(runs, contrasts, rng=rng, rules=rules)
        table = comparison_table(made, VARIANTS)
        found.append(
            Sound(
                f"001.fft_vs.{name.lower()}",
                f"Does {name} lose against FFT?",
                f"{_verdicts(made)} Tests that take less for independent, after Holm: "
                f"{len(significant(table, 'holm_p_t_runs'))} of {len(table)} variants "
                f"over runs, {len(significant(table, 'holm_p_t_blocks'))} over blocks, "
                f"{len(significant(table, 'holm_p_t_tasks'))} over the nine tasks.",
                table,
                SOURCE,
                int(table["n_runs"].sum()),
                f"{name} minus FFT, paired by family, task and seed",
                SHOWN,
            )
        )
    return found


def _families(runs: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> Sound:
    """Families paired by task and seed; a cell averages the variants that both families have."""
    names, contrasts, frames = [], [], []
    for strategy in ("FFT", "LoRA-only", "KD-LoRA"):
        part = runs[runs["strategy"] == strategy]
        for a, b in FAMILY_PAIRS:
            names.append(f"{strategy}: {a} - {b}")
            contrasts.append((a, b))
            frames.append(_matched_families(part, a, b))
    joined = pd.concat(
        [f.assign(arm=f["arm"] + f" #{i}") for i, f in enumerate(frames)], ignore_index=True
    )
    made = compare_many(
        joined,
        [(f"{a} #{i}", f"{b} #{i}") for i, (a, b) in enumerate(contrasts)],
        rng=rng,
        keys=("task", "seed"),
        rules=rules,
    )
    table = comparison_table(made, names)
    clear = significant(table, "holm_p_t_runs")
    return Sound(
        "001.families",
        "Do the model families differ?",
        f"After Holm over nine comparisons: {'; '.join(clear) or 'none'}.",
        table,
        SOURCE,
        int(table["n_runs"].sum()),
        "paired by task and seed; a cell is the mean over the variants that both families have",
        SHOWN,
    )


def _matched_families(part: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """One row a family, task and seed: the mean over the variants present in both families."""
    wide = part.pivot_table(
        index=["task", "seed", "variant", "metric"], columns="pair", values="score"
    )
    both = wide[[a, b]].dropna().groupby(["task", "seed", "metric"]).mean().reset_index()
    return both.melt(["task", "seed", "metric"], [a, b], "arm", "score")


def _retention(runs: pd.DataFrame, rng: np.random.Generator, rules: Rules) -> Sound:
    seed = runs[runs["seed"] == 42]
    shared = shared_cells(seed)
    rows = aggregate(shared, rng=rng, reference="teacher/fft", rules=rules)
    table = pd.DataFrame([r.to_dict() for r in rows])
    kept = table.set_index("arm")["retention"] if len(table) else pd.Series(dtype=float)

    def span(arms: Sequence[str]) -> str:
        values = kept[[arm for arm in arms if Arm.read(arm).adaptation != "adalora"]]
        return f"{values.min():.1f}-{values.max():.1f} %"

    answer = (
        f"On the {shared.n_cells} cells that all 13 arms share at seed 42, without adalora: "
        f"LoRA-only {span(LORA_ONLY)}, KD-LoRA {span(KD_LORA)} of FFT."
        if len(kept)
        else f"Cannot be said: {shared.reason}."
    )
    return Sound(
        "001.retention",
        "How much of FFT's score is kept?",
        answer,
        table,
        SOURCE,
        shared.n_cells,
        "mean over cells that every arm has, seed 42, against FFT's mean",
        (
            "arm",
            "n_cells",
            "mean",
            "iqm",
            "retention",
            "retention_low_tasks",
            "retention_high_tasks",
        ),
    )


def _ranks(runs: pd.DataFrame) -> list[Sound]:
    """Which variant is best? Ranks over the blocks of seed 42, where every arm has been run."""
    found = []
    seed = runs[runs["seed"] == 42]
    for name, arms in (("LoRA-only", LORA_ONLY), ("KD-LoRA", KD_LORA)):
        shared = shared_cells(seed, arms)
        ranking = rank_methods(shared, level="blocks")
        if ranking.cannot:
            continue
        told = [p for p in ranking.pairs if p.significant]
        table = pd.DataFrame(
            [{"arm": arm, "average_rank": rank} for arm, rank in ranking.average_rank.items()]
        ).assign(friedman_chi2=ranking.friedman_chi2, p_friedman=ranking.p_friedman,
                 critical_difference=ranking.critical_difference)  # fmt: skip
        best = table.iloc[0]
        found.append(
            Sound(
                f"001.ranks.{name.lower()}",
                f"Which variant is best ({name})?",
                f"{best['arm']} has the best average rank, {best['average_rank']:.2f} of "
                f"{ranking.k} over {ranking.n} blocks; {len(told)} of {len(ranking.pairs)} pairs "
                f"are told apart (Nemenyi, critical difference {ranking.critical_difference:.2f}). "
                "mrlora trains more parameters at the same rank.",
                table,
                SOURCE,
                ranking.n,
                "Friedman and Nemenyi over (family, task) blocks of seed 42",
            )
        )
    return found
