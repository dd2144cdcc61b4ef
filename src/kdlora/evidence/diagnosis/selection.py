"""How the reported checkpoint was chosen: at random, on the wrong number, or not restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from kdlora.evidence.diagnosis.finding import DiagnosisFinding, counts, has, is_done, runs, strategy
from kdlora.evidence.diagnosis.scores import degenerate_kinds
from kdlora.records.tidy import directions, numeric

SCORE_DIGITS = 1e-6  # histories are logged with six digits
LOSS_DIGITS = 1e-5
COLUMNS = ["epochs", "selected", "best", "correlation", "best_score", "last_score", "matched",
           "matched_epoch"]  # fmt: skip
UNFAITHFUL = 0.05  # share of unmatched finals from which a variant's reload is not trusted


def epochs_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs with a logged history, one row each, indexed as the frame. Empty without histories.

    epochs, selected (1-based, lowest loss), best (1-based, best score, the first one of equals),
    correlation (of loss and score over the epochs, NaN without spread), best_score, last_score,
    matched (the final score and loss are those of some epoch) and matched_epoch (1-based, 0 =
    none). "Best" follows the metric's direction.
    """
    if not has(frame, "epoch_scores", "score"):
        return pd.DataFrame(columns=COLUMNS)
    done = frame[is_done(frame)]
    scores = [_numbers(cell) for cell in done["epoch_scores"]]
    losses = [_numbers(cell) for cell in done["epoch_losses"]] if "epoch_losses" in done else []
    by_length: dict[int, list[int]] = {}
    for row, values in enumerate(scores):
        if values is not None and len(values) > 1 and np.isfinite(values).all():
            by_length.setdefault(len(values), []).append(row)
    parts = []
    for length, rows in by_length.items():
        block = done.iloc[rows]
        unknown = np.full(length, np.nan)
        paired = [losses[r] if losses else None for r in rows]
        loss = np.stack([v if v is not None and len(v) == length else unknown for v in paired])
        parts.append(_epochs(block, np.stack([scores[r] for r in rows]), loss))  # type: ignore[misc]
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts).sort_index()


def _epochs(block: pd.DataFrame, scores: np.ndarray, losses: np.ndarray) -> pd.DataFrame:
    """`epochs_table` of runs with equally many epochs. scores, losses [runs, epochs]"""
    sign = directions(block).fillna(1.0).to_numpy()[:, None]
    final = numeric(block, "score").to_numpy()[:, None]
    final_loss = numeric(block, "final_loss").to_numpy()[:, None]
    told = np.isfinite(losses).all(axis=1)
    losses = np.where(told[:, None], losses, np.nan)
    near = np.abs(scores - final) <= SCORE_DIGITS
    comparable = told[:, None] & np.isfinite(final_loss)
    near &= ~comparable | (np.abs(losses - final_loss) <= LOSS_DIGITS * np.abs(losses))
    matched = near.any(axis=1)
    best = np.argmax(sign * scores, axis=1)
    rows = np.arange(len(scores))
    lowest = np.argmin(np.where(told[:, None], losses, 0.0), axis=1) + 1.0
    return pd.DataFrame(
        {
            "epochs": scores.shape[1],
            "selected": np.where(told, lowest, np.nan),
            "best": best + 1,
            "correlation": _correlations(losses, sign * scores),
            "best_score": scores[rows, best],
            "last_score": scores[:, -1],
            "matched": matched,
            "matched_epoch": np.where(matched, np.argmax(near, axis=1) + 1, 0),
        },
        index=block.index,
        columns=COLUMNS,
    )


def _correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Row by row; NaN without spread. a, b [runs, epochs] -> [runs]"""
    x, y = (v - v.mean(axis=1, keepdims=True) for v in (a, b))
    flat = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(flat | (size == 0), np.nan, (x * y).sum(axis=1) / size)


def reload(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
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
        yield DiagnosisFinding(
            "final_matches_no_epoch",
            "error",
            f"{int(lost.sum())} reported scores are those of no logged epoch ({told}): the best "
            "checkpoint was not restored as it was saved.",
            runs(rows, lost),
            {"by_variant": share},
        )
    other = table["matched"] & table["selected"].notna() & _elsewhere(frame, table)
    if other.any():
        yield DiagnosisFinding(
            "other_epoch_kept",
            "warning",
            f"{int(other.sum())} runs report another epoch than the one with the lowest "
            "evaluation loss.",
            runs(rows, other),
        )


def choice(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
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
    sign = directions(frame).fillna(1.0).loc[table.index]
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
        yield DiagnosisFinding(
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


def on_report_split(frame: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    """Chosen and reported on the same rows."""
    table = epochs_table(frame)
    if table.empty or has(frame, "selection_score"):
        return
    same = int(table["matched"].sum())
    if same >= 0.5 * len(table):
        yield DiagnosisFinding(
            "selected_on_report_split",
            "warning",
            f"{same} of {len(table)} reported scores are the per-epoch score of the epoch kept: "
            "the checkpoint was chosen on the split that is reported, so scores are optimistic.",
            runs(frame.loc[table.index], table["matched"]),
        )


def _lost_by_selection(frame: pd.DataFrame, table: pd.DataFrame) -> Iterator[DiagnosisFinding]:
    kinds = degenerate_kinds(frame).loc[table.index]
    score = numeric(frame, "score").loc[table.index]
    sign = directions(frame).fillna(1.0).loc[table.index]
    better = sign * (table["best_score"] - score) > 0.05
    rescued = kinds.notna() & better
    if rescued.any():
        low, high = table.loc[rescued, "best_score"].min(), table.loc[rescued, "best_score"].max()
        yield DiagnosisFinding(
            "degenerate_by_selection",
            "error",
            f"{int(rescued.sum())} degenerate runs had an epoch more than 5 points better "
            f"({low:.3f} to {high:.3f}): the choice of the checkpoint lost them.",
            runs(frame.loc[table.index], rescued),
            {"by_arm": counts(frame.loc[rescued.index[rescued], "arm"])},
        )


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
    try:
        return np.asarray(cell, dtype=float)
    except (TypeError, ValueError):
        return None


def _signed(evidence: dict) -> str:
    value = evidence["median_correlation_loss_score"]
    return "nowhere" if value is None else f"{value:+.2f}"
