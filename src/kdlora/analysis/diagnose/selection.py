"""How the reported checkpoint was chosen: at random, on the wrong number, or not restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.analysis.diagnose.finding import Finding, counts, has, is_done, numeric, runs, strategy
from kdlora.analysis.diagnose.scores import degenerate_kinds

SCORE_DIGITS = 1e-6  # histories are logged with six digits
LOSS_DIGITS = 1e-5
UNFAITHFUL = 0.05  # share of unmatched finals from which a variant's reload is not trusted


def epochs_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs with a logged history, one row each, indexed as the frame. Empty without histories.

    epochs, selected (1-based, lowest loss), best (1-based, best score, the first one of equals),
    correlation (of loss and score over the epochs, NaN without spread), best_score, last_score,
    matched (the final score and loss are those of some epoch) and matched_epoch (1-based, 0 =
    none). "Best" follows the metric's direction.
    """
    empty = pd.DataFrame(
        columns=["epochs", "selected", "best", "correlation", "best_score", "last_score",
                 "matched", "matched_epoch"]
    )  # fmt: skip
    if not has(frame, "epoch_scores", "score"):
        return empty
    direction = numeric(frame, "direction").fillna(1.0)
    reported, final_loss = numeric(frame, "score"), numeric(frame, "final_loss")
    losses = frame.get("epoch_losses", pd.Series(None, index=frame.index, dtype=object))
    rows = {}
    index: Any
    for index, cell in frame.loc[is_done(frame), "epoch_scores"].items():
        scores = _numbers(cell)
        if scores is None or len(scores) < 2 or not np.isfinite(scores).all():
            continue
        sign, final = direction[index], float(reported[index])
        loss = _numbers(losses[index])
        if loss is None or len(loss) != len(scores) or not np.isfinite(loss).all():
            loss = None
        near = np.abs(scores - final) <= SCORE_DIGITS
        if loss is not None and np.isfinite(final_loss[index]):
            near &= np.abs(loss - final_loss[index]) <= LOSS_DIGITS * np.abs(loss)
        best = int(np.argmax(sign * scores))
        spread = loss is not None and np.ptp(scores) > 0 and np.ptp(loss) > 0
        rows[index] = (
            len(scores),
            int(np.argmin(loss)) + 1 if loss is not None else np.nan,
            best + 1,
            _correlation(loss, sign * scores) if spread else np.nan,
            float(scores[best]),
            float(scores[-1]),
            bool(near.any()),
            int(np.argmax(near)) + 1 if near.any() else 0,
        )
    if not rows:
        return empty
    table = pd.DataFrame.from_dict(rows, orient="index", columns=empty.columns)
    return table.astype({"matched": bool})


def reload(frame: pd.DataFrame) -> Iterator[Finding]:
    """Reported scores that no logged epoch had, or that of another epoch than the chosen one."""
    table = epochs_table(frame)
    if table.empty:
        return
    rows = frame.loc[table.index].assign(strategy=lambda f: strategy(f))
    lost = ~table["matched"]
    if lost.any():
        place = rows["strategy"] + " " + rows["adaptation"].astype(str)
        share = {
            str(name): {"unmatched": int(lost[place == name].sum()), "runs": int(n)}
            for name, n in place.value_counts().items()
            if lost[place == name].any()
        }
        told = "; ".join(f"{k}: {v['unmatched']} of {v['runs']}" for k, v in share.items())
        yield Finding(
            "final_matches_no_epoch",
            "error",
            f"{int(lost.sum())} reported scores are those of no logged epoch ({told}): the best "
            "checkpoint was not restored as it was saved.",
            runs(rows, lost),
            {"by_variant": share},
        )
    other = table["matched"] & table["selected"].notna() & _elsewhere(frame, table)
    if other.any():
        yield Finding(
            "other_epoch_kept",
            "warning",
            f"{int(other.sum())} runs report another epoch than the one with the lowest "
            "evaluation loss.",
            runs(rows, other),
        )


def choice(frame: pd.DataFrame) -> Iterator[Finding]:
    """Did the lowest loss pick the best epoch? Better than chance, by chance, or worse?"""
    table = epochs_table(frame)
    table = table[table["selected"].notna()]
    if table.empty:
        return
    rows = frame.loc[table.index].assign(strategy=lambda f: strategy(f))
    unfaithful = (~table["matched"]).groupby([rows["strategy"], rows["adaptation"]]).transform(
        "mean"
    ) > UNFAITHFUL
    left_out = sorted(set(rows.loc[unfaithful, "adaptation"].astype(str)))
    sign = numeric(frame, "direction").fillna(1.0).loc[table.index]
    score = numeric(frame, "score").loc[table.index]
    for name, index in rows[~unfaithful].groupby("strategy").groups.items():
        part = table.loc[index]
        hits, n = int((part["selected"] == part["best"]).sum()), len(part)
        chance = float((1 / part["epochs"]).mean())
        p_below = float(stats.binomtest(hits, n, chance, alternative="less").pvalue)
        p_above = float(stats.binomtest(hits, n, chance, alternative="greater").pvalue)
        correlation = part["correlation"].dropna()
        forfeited = sign.loc[index] * (part["best_score"] - score.loc[index])
        same = rows["strategy"] == name
        evidence: dict[str, Any] = {
            "runs": n,
            "left_out": left_out,
            "picked_best": hits / n,
            "chance": chance,
            "p_below_chance": p_below,
            "p_above_chance": p_above,
            "median_correlation_loss_score": float(correlation.median())
            if len(correlation)
            else None,
            "share_positive_correlation": float((part["correlation"] > 0).mean()),
            "forfeited": float(forfeited.mean()),
            "mean_reported": float(score[same].mean()),
            "mean_last_epoch": float(table.loc[same, "last_score"].mean()),
            "mean_best_epoch": float(table.loc[same, "best_score"].mean()),
        }
        worse = p_below < 0.05
        if not worse and p_above < 0.05:
            continue
        yield Finding(
            "selection_worse_than_chance" if worse else "selection_by_chance",
            "error" if worse else "warning",
            f"{name}: the lowest evaluation loss picked the best epoch in {hits / n:.0%} of {n} "
            f"runs (chance {chance:.0%}); loss and score correlate {_signed(evidence)} within a "
            f"run (median; -1 is right), and {100 * evidence['forfeited']:.2f} points were "
            "forfeited on average. "
            + (
                "The loss does not measure the task."
                if worse
                else "The loss says nothing of the score here."
            ),
            runs(frame, frame.index.isin(index)),
            evidence,
        )
    yield from _lost_by_selection(frame, table)


def on_report_split(frame: pd.DataFrame) -> Iterator[Finding]:
    """Chosen and reported on the same rows."""
    table = epochs_table(frame)
    if table.empty or has(frame, "selection_score"):
        return
    same = int(table["matched"].sum())
    if same >= 0.5 * len(table):
        yield Finding(
            "selected_on_report_split",
            "warning",
            f"{same} of {len(table)} reported scores are the per-epoch score of the epoch kept: "
            "the checkpoint was chosen on the split that is reported, so scores are optimistic.",
            runs(frame.loc[table.index], table["matched"]),
        )


def _lost_by_selection(frame: pd.DataFrame, table: pd.DataFrame) -> Iterator[Finding]:
    kinds = degenerate_kinds(frame).loc[table.index]
    score = numeric(frame, "score").loc[table.index]
    sign = numeric(frame, "direction").fillna(1.0).loc[table.index]
    better = sign * (table["best_score"] - score) > 0.05
    rescued = kinds.notna() & better
    if rescued.any():
        low, high = table.loc[rescued, "best_score"].min(), table.loc[rescued, "best_score"].max()
        yield Finding(
            "degenerate_by_selection",
            "error",
            f"{int(rescued.sum())} degenerate runs had an epoch more than 5 points better "
            f"({low:.3f} to {high:.3f}): the choice of the checkpoint lost them.",
            runs(frame.loc[table.index], rescued),
            {"by_arm": counts(frame.loc[rescued.index[rescued], "arm"])},
        )


def _correlation(a: Any, b: Any) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def _elsewhere(frame: pd.DataFrame, table: pd.DataFrame) -> pd.Series:
    """Whether the epoch kept is another than that of the lowest loss, beyond equal losses."""
    different = table["matched_epoch"] != table["selected"]
    odd = table[different & table["selected"].notna()]
    for index, kept, chosen in zip(
        odd.index, odd["matched_epoch"].astype(int), odd["selected"].astype(int), strict=True
    ):
        loss = _numbers(frame["epoch_losses"].loc[index])
        if loss is not None and kept and loss[kept - 1] <= loss[chosen - 1] * (1 + LOSS_DIGITS):
            different[index] = False
    return different


def _numbers(cell: object) -> np.ndarray | None:
    if not isinstance(cell, tuple | list | np.ndarray) or len(cell) == 0:
        return None
    return np.asarray(cell, dtype=float)


def _signed(evidence: dict) -> str:
    value = evidence["median_correlation_loss_score"]
    return "nowhere" if value is None else f"{value:+.2f}"
