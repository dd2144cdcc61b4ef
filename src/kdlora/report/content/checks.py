"""Sentences by which a reader judges a study: coverage, flags, unequal conditions.

As in `findings`, one whose condition does not hold is not made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pandas as pd

from kdlora.evidence.gains import Facts
from kdlora.records.tidy import groups, names
from kdlora.report import words as w
from kdlora.report.content.methods import SAME, trained, values
from kdlora.report.content.trust import full_grid
from kdlora.report.document import Finding


def trust(facts: Facts) -> list[Finding]:
    """Coverage, flags, unequal conditions."""
    checks: tuple[Callable[[Facts], Finding | None], ...] = (
        covered, ended_early, flagged, unequal, equal, mixed_protocol, unsteady,
    )  # fmt: skip
    return [finding for check in checks if (finding := check(facts))]


def _is_own(frame: pd.DataFrame) -> bool:
    """Whether runs were recorded by kdlora, which plans them and checks their health."""
    return any(bool(found) for found in frame["environment"])


def covered(facts: Facts) -> Finding | None:
    frame = facts.frame
    done = int((frame["status"] == "done").sum())
    grid = full_grid(frame)
    if done == len(frame) and grid > done and not _is_own(frame):
        text = (
            f"{done:,} runs are there; every model on every pair, task and seed would make "
            f"{grid:,}. What was planned is not known."
        )
    elif done == len(frame):
        text = f"All planned runs are done ({done} of {len(frame)})."
    else:
        failed = int((frame["status"] == "failed").sum())
        stopped = int((frame["status"] == "stopped").sum())
        missing = len(frame) - done - failed - stopped
        counted = ((failed, "failed"), (missing, "missing"), (stopped, "stopped early"))
        rest = [f"{n} {what}" for n, what in counted if n]
        text = f"{done} of {len(frame)} planned runs are done; {w.join(rest)}."
    encoders = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    unscored = encoders.loc[encoders["score"].isna(), "run_id"].tolist()
    if unscored:
        text += f" No score is defined for {w.join(unscored)}; no mean includes it."
    return Finding("Coverage", text, ("coverage", "unfinished"))


def ended_early(facts: Facts) -> Finding | None:
    """Which models early decisions ended, and what that does to their means."""
    frame = facts.frame
    stopped = frame[frame["status"] == "stopped"]
    if stopped.empty:
        return None
    listed = w.join([
        f"{w.arm_name(arm)} in {w.plural(len(cells), 'cell')} of {len(own)}"
        for arm, cells in groups(stopped, "arm")
        if len(own := frame[frame["arm"] == arm])
    ])  # fmt: skip
    text = (
        f"Successive halving ended {listed}, by scores on the selection split alone. These models "
        "are left out of averages; where they have a score, they were among the better ones there."
    )
    return Finding("Stopped early", text, ("coverage", "unfinished"))


def flagged(facts: Facts) -> Finding | None:
    """Which flags there are, by name and count."""
    runs = facts.frame[facts.frame["status"] == "done"].drop_duplicates("run_id")
    counts = Counter(name for flags in runs["flags"] for name in dict.fromkeys(flags))
    if runs.empty or (not counts and not _is_own(runs)):
        return None
    if not counts:
        return Finding("Health", "No run carries a health flag.")
    listed = w.join([f"{name} in {w.plural(n, 'run')}" for name, n in counts.most_common()])
    return Finding("Health", f"Health flags: {listed}.", ("flag_counts", "flags"))


def unequal(facts: Facts) -> Finding | None:
    """Settings in which trained models of one comparison differ though they should not."""
    frame = facts.frame
    parts = []
    for (pair, task), cells in groups(trained(frame), "pair", "task"):
        for column, name in SAME.items():
            if len(values(cells[column])) < 2:
                continue
            by_arm = [
                f"{'/'.join(found)} in {w.arm_name(arm)}"
                for arm, rows in groups(cells, "arm")
                if (found := values(rows[column]))
            ]
            where = f" on {task}" if len(names(frame, "task")) > 1 else ""
            where += f" ({pair})" if len(names(frame, "pair")) > 1 else ""
            parts.append(f"{name}{where}: {', '.join(by_arm)}")
    if not parts:
        return None
    text = f"Not the same for all trained models: {'; '.join(parts)}."
    return Finding("Unequal conditions", text, ("settings", "splits"))


def equal(facts: Facts) -> Finding | None:
    """What all trained models have in common."""
    rows = trained(facts.frame)
    if "effective_batch" in rows and rows["effective_batch"].nunique() > 1:
        rows = rows.assign(batch_size=None)  # the setting alone would mislead
    columns = ("batch_size", "epochs", "max_length", "precision", "device")
    same = [
        f"{SAME[column]} {found[0]}"
        for column in columns
        if len(found := values(rows[column])) == 1 and rows[column].notna().all()
    ]
    if rows["arm"].nunique() < 2 or not same:
        return None
    return Finding("Equal conditions", f"All trained models share {w.join(same)}.", ("settings",))


def mixed_protocol(facts: Facts) -> Finding | None:
    """Said when encoders were measured under different conditions."""
    frame = facts.frame
    rows = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    known = [p for p in rows["protocol"] if p]
    keys = dict.fromkeys(key for protocol in known for key in protocol)
    mixed = [
        key
        for key in keys
        if len({str(protocol.get(key)) for protocol in known}) > 1 and not _adapts(key)
    ]
    if not mixed:
        return None
    listed = w.join([key.replace("_", " ") for key in mixed])
    text = f"Latency and throughput were not measured alike for all encoders: {listed} differ."
    return Finding("Unequal measurement", text, ("protocol",))


def _adapts(key: str) -> bool:
    """Whether a part of the protocol follows from the model's own speed and place."""
    return key.endswith("repeats") or key in ("interleaved", "measured")


# The same architecture, merged, on one machine: its latency should not differ by more than this.
STEADY = 1.25


def unsteady(facts: Facts) -> Finding | None:
    """Said when runs of one encoder, which is as fast whatever its weights, differ in latency."""
    frame = facts.frame
    runs = frame[(frame["status"] == "done") & frame["encoder"].notna()]
    runs = runs[runs["latency_p50_ms"] > 0].drop_duplicates("run_id")
    parts = []
    for (encoder, *_), own in groups(runs, "encoder", "precision", "device"):
        low, high = own["latency_p50_ms"].min(), own["latency_p50_ms"].max()
        if high > STEADY * low:
            parts.append(f"{encoder} took {w.significant(low)} to {w.significant(high)} ms a text")
    if not parts:
        return None
    text = (
        f"The machine was not steady: from run to run {w.join(parts)}. Trust the speed-ups, which "
        "were timed side by side, before the latencies."
    )
    return Finding("Unsteady timing", text, ("runs",))
