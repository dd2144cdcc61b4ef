"""Can it be trusted? What is done, what is doubtful, and what differs that should not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from kdlora.evidence.coverage import (
    count_cells,
    flag_counts,
    flagged_runs,
    size_of_full_grid,
)
from kdlora.evidence.gains import Facts
from kdlora.evidence.outcomes import averaged_tasks
from kdlora.evidence.run_costs import unlike_protocol, unsteady_encoders
from kdlora.evidence.study import Evidence
from kdlora.records import fairness
from kdlora.records.tidy import groups, metrics_of, names, rows_of, severities
from kdlora.report import words as w
from kdlora.report.content.cells import MODEL, RUN, TASK, Lead, arrow
from kdlora.report.content.coverage import is_own
from kdlora.report.content.quality import _columns_in_order
from kdlora.report.document import Cell, Column, Figure, Finding, Table
from kdlora.report.render.panels import heat_map, shade

SETTINGS = (
    Column("encoder", "Encoder", numeric=False),
    Column("lr", "Peak learning rate"),
    Column("batch_size", "Batch"),
    Column("epochs", "Epochs"),
    Column("max_length", "Max length", "tokens"),
    Column("windows", "Windows", numeric=False),
    Column("rank", "Rank"),
    Column("alpha", "Alpha"),
    Column("targets", "Adapter on", numeric=False),
    Column("temperature", "Temperature"),
    Column("kd_weight", "KD weight"),
    Column("precision", "Precision", numeric=False),
    Column("device", "Device", numeric=False),
    Column("attention", "Attention", numeric=False),
)
WEIGHTED = (
    Column("class_weights", "Class weights", numeric=False),
    Column("focal", "Focal gamma"),
)


def trained(frame: pd.DataFrame) -> pd.DataFrame:
    """The done cells that were trained as encoders."""
    return frame[fairness.trained(frame)]


def values(cells: Iterable[Any]) -> list[str]:
    """Distinct known values as they are shown, in order of appearance."""
    shown = (w.word(v).text for v in cells)
    return [v for v in dict.fromkeys(shown) if v != w.NONE]


def trust(facts: Facts) -> list[Finding]:
    """Coverage, flags, unequal conditions."""
    checks: tuple[Callable[[Facts], Finding | None], ...] = (
        covered, ended_early, flagged, unequal, equal, in_windows, mixed_protocol, unsteady,
    )  # fmt: skip
    return [finding for check in checks if (finding := check(facts))]


def covered(facts: Facts) -> Finding | None:
    frame = facts.frame
    counts, grid, own = count_cells(frame), size_of_full_grid(frame), is_own(frame)
    done = counts.done
    if done == len(frame) and not own:
        text = f"{w.plural(done, 'run')}; what was planned is not known."
        if grid > done:
            text += f" Every model on every pair, task and seed would make {grid:,}."
    elif done == len(frame):
        text = f"All planned runs are done ({done} of {len(frame)})."
    else:
        counted = ((counts.failed, "failed"), (counts.missing, "missing"),
                   (counts.stopped, "stopped early"))  # fmt: skip
        rest = [f"{n} {what}" for n, what in counted if n]
        text = f"{done} of {len(frame)} {'planned ' * own}runs are done; {w.join(rest)}."
    encoders = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    unscored = encoders.loc[encoders["score"].isna(), "run_id"].tolist()
    if unscored:
        text += f" No score is defined for {w.join(unscored)}; no mean includes it."
    return Finding("Coverage", text, ("coverage", "unfinished"))


def unfinished_runs(facts: Facts) -> Finding | None:
    """How many of the planned runs are not done; None where all are."""
    return None if count_cells(facts.frame).done == len(facts.frame) else covered(facts)


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
    counts: dict[str, int] = {}
    for (name, _), n in flag_counts(runs).items():
        counts[name] = counts.get(name, 0) + n
    if runs.empty or (not counts and not is_own(runs)):
        return None
    if not counts:
        return Finding("Health", "No run carries a health flag.")
    listed = w.join([f"{name} in {w.plural(n, 'run')}" for name, n in _most_first(counts)])
    return Finding("Health", f"Health flags: {listed}.", ("flag_counts", "flags"))


def _most_first(counts: Mapping[Any, int]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda found: -found[1])


def unequal(facts: Facts) -> Finding | None:
    """Settings in which trained models of one comparison differ though they should not."""
    frame = facts.frame
    parts = []
    for (pair, task), cells in groups(trained(frame), "pair", "task"):
        for one in (c for c in fairness.CONDITIONS if c.listed):
            if len(values(cells[one.field])) < 2:
                continue
            by_arm = [
                f"{'/'.join(found)} in {w.arm_name(arm)}"
                for arm, rows in groups(cells, "arm")
                if (found := values(rows[one.field]))
            ]
            where = f" on {task}" if len(names(frame, "task")) > 1 else ""
            where += f" ({pair})" if len(names(frame, "pair")) > 1 else ""
            parts.append(f"{one.title}{where}: {', '.join(by_arm)}")
    if not parts:
        return None
    text = f"Not the same for all trained models: {'; '.join(parts)}."
    return Finding("Unequal conditions", text, ("settings", "splits"))


def equal(facts: Facts) -> Finding | None:
    """What all trained models have in common."""
    rows = trained(facts.frame)
    if "effective_batch" in rows and len(set(rows["effective_batch"].dropna())) > 1:
        rows = rows.assign(batch_size=None)  # the setting alone would mislead
    same = [
        f"{one.title} {found[0]}"
        for one in fairness.CONDITIONS
        if one.listed and one.across_tasks
        if len(found := values(rows[one.field])) == 1 and rows[one.field].notna().all()
    ]
    if len(names(rows, "arm")) < 2 or not same:
        return None
    return Finding("Equal conditions", f"All trained models share {w.join(same)}.", ("settings",))


def in_windows(facts: Facts) -> Finding | None:
    """What a long text costs, where texts are read in windows."""
    rows = facts.frame[facts.frame["windows_per_text"].notna()].drop_duplicates("run_id")
    if rows.empty:
        return None
    parts = [
        f"{shown:.1f} ({w.join(names(own, 'arm'))})"
        for shown, own in groups(rows.assign(shown=rows["windows_per_text"].round(1)), "shown")
    ]
    text = (
        f"Long texts are read in windows, of which one of the report split takes {w.join(parts)} "
        "in the mean. Latency, throughput and FLOPs are those of one short text, so a long one "
        "costs as many times more as it has windows."
    )
    return Finding("Long texts", text, ("settings",))


def mixed_protocol(facts: Facts) -> Finding | None:
    """Said when encoders were measured under different conditions."""
    mixed = unlike_protocol(facts.frame)
    if not mixed:
        return None
    listed = w.join([key.replace("_", " ") for key in mixed])
    text = f"Latency and throughput were not measured alike for all encoders: {listed} differ."
    return Finding("Unequal measurement", text, ("protocol",))


def unsteady(facts: Facts) -> Finding | None:
    """Said when runs of one encoder, which is as fast whatever its weights, differ in latency."""
    parts = [
        f"{encoder} took {w.significant(low)} to {w.significant(high)} ms a text"
        for encoder, low, high in unsteady_encoders(facts.frame)
    ]
    if not parts:
        return None
    text = (
        f"The machine was not steady: from run to run {w.join(parts)}. Trust the speed-ups, which "
        "were timed side by side, before the latencies."
    )
    return Finding("Unsteady timing", text, ("runs",))


def doubts(stats: Evidence) -> Table | None:
    """Everything that the checks of the whole study found."""
    if not stats.doubts:
        return None
    rows = tuple(
        (Cell(d.severity), Cell(d.name.replace("_", " ").replace(":", " ")), Cell(d.sentence),
         w.count(d.n) if d.n else Cell(w.NONE))
        for d in stats.doubts
    )  # fmt: skip
    columns = (
        Column("severity", "Severity", numeric=False),
        Column("check", "Check", numeric=False),
        Column("found", "What was found", numeric=False),
        Column("runs", "Runs"),
    )
    return Table(
        "doubts",
        "What a reader must know before believing it",
        columns,
        rows,
        "An error: numbers do not measure what they are said to. A warning: a comparison that "
        "uses them misleads.",
        heads=2,
    )


def flags_by_name(frame: pd.DataFrame) -> Table | None:
    """How many runs carry each flag, and how many carry one that is more than information."""
    counts = flag_counts(frame)
    if not counts:
        return None
    rows = [(Cell(name), Cell(level), w.count(n)) for (name, level), n in _most_first(counts)]
    rows.append((Cell("any warning or error"), Cell(w.NONE), w.count(flagged_runs(frame))))
    columns = (
        Column("flag", "Flag", numeric=False),
        Column("severity", "Severity", numeric=False),
        Column("runs", "Runs"),
    )
    return Table("flag_counts", "Health flags by name", columns, tuple(rows))


def flags(frame: pd.DataFrame) -> Table | None:
    """Every flag of every run, in full."""
    rows = []
    runs = frame.drop_duplicates("run_id")
    used = ("run_id", "task", "arm", "seed", "flags", "flag_details", "flag_severities")
    for row in rows_of(runs[runs["flags"].map(len) > 0], *used):
        details = tuple(row["flag_details"]) + ("",) * len(row["flags"])
        for name, detail, level in zip(row["flags"], details, severities(row), strict=False):
            rows.append((
                Cell(row["run_id"]), Cell(row["task"]), Cell(w.arm_name(row["arm"]), row["arm"]),
                Cell(str(row["seed"]), row["seed"]), Cell(level), Cell(name), w.word(detail),
            ))  # fmt: skip
    if not rows:
        return None
    order = ("error", "warning", "info")
    rows.sort(key=lambda r: order.index(r[4].text) if r[4].text in order else len(order))
    columns = (
        RUN,
        TASK,
        MODEL,
        Column("seed", "Seed"),
        Column("severity", "Severity", numeric=False),
        Column("flag", "Flag", numeric=False),
        Column("detail", "What was found", numeric=False),
    )
    return Table("flags", "Health flags", columns, tuple(rows))


def unfinished(frame: pd.DataFrame) -> Table | None:
    """Cells that are planned and have no result: the error of those that failed, and which early
    decision ended those that were stopped."""
    rest = frame[frame["status"] != "done"].drop_duplicates("run_id")
    if rest.empty:
        return None
    rows = tuple(
        (Cell(row["run_id"]), Cell(row["task"]), Cell(w.arm_name(row["arm"]), row["arm"]),
         Cell(str(row["seed"]), row["seed"]), Cell(row["status"]), w.word(row["error"]))
        for row in rows_of(rest)
    )  # fmt: skip
    columns = (
        RUN,
        TASK,
        MODEL,
        Column("seed", "Seed"),
        Column("status", "Status", numeric=False),
        Column("error", "Why", numeric=False),
    )
    return Table("unfinished", "Runs without a result", columns, rows)


def completion(coverage: Table, facts: Facts) -> Figure | None:
    """The coverage table as a picture: a share of what was planned, or how many runs there are."""
    own, most = is_own(facts.frame), 0
    if not own:
        inner = (c for row in coverage.rows[:-1] for c in row[:-1] if c.extra)
        most = max((int(c.extra["done"] or 0) for c in inner), default=0)
    tasks = names(facts.frame, "task")
    rows = []
    for row in coverage.rows:
        *lead, name = [c for c, k in zip(row, coverage.columns, strict=True)
                       if k.key in ("pair", "model")]  # fmt: skip
        if not isinstance(name.value, str):
            continue  # the row of sums
        label = " · ".join([*(c.text for c in lead), w.short_arm_name(name.value)])
        for column, cell in zip(coverage.columns, row, strict=True):
            if column.key in tasks and cell.extra:
                done, planned = cell.extra["done"], cell.extra["planned"]
                share = float(cell.value or 0) if own else int(done or 0) / max(most, 1)
                rows.append({
                    "column": column.label, "row": label, "shade": shade(share),
                    "label": f"{done}/{planned}" if own or done != planned else f"{done}",
                    "Model": w.arm_name(name.value),
                    "Task": column.label, "Done": cell.shown,
                })  # fmt: skip
    if len(rows) < 2 or not (facts.frame["status"] == "done").any():
        return None
    table = _columns_in_order(pd.DataFrame(rows), tasks)
    what = "the share of planned runs that are done" if own else "how many runs there are"
    alt_text = f"Heat map of {what}, models by tasks."
    panel = heat_map("completion", coverage.title, alt_text, table)
    caption = "Done of planned runs" if own else "Runs"
    caption += " of each model and task; the stronger the shade, the more."
    title = "What is done" if own else "What is there"
    return Figure("completion", title, caption, (panel,), ("coverage",))


def shared(facts: Facts) -> Table | None:
    """Which blocks the averages and shares are over; None where that is simply all of them."""
    frame = facts.frame
    tasks, averaged = names(frame, "task"), averaged_tasks(frame)
    lead, rows, whole = Lead(frame, task=False, model=False), [], len(tasks) == 1
    metrics = metrics_of(frame)
    for pair in names(frame, "pair"):
        blocks = facts.blocks[pair]
        for task in tasks:
            here = frame[(frame["pair"] == pair) & (frame["task"] == task)]
            seeds = sorted({int(s) for s in here.loc[~here["any_seed"], "seed"]})
            within = sorted(seed for name, seed in blocks if name == task)
            left = [seed for seed in seeds if seed not in within]
            whole = whole and not left
            metric, _ = metrics[task]
            why = (
                ""
                if task in averaged or not metric
                else f"{w.metric_name(metric)} is not averaged with points"
            )
            rows.append((
                *lead.cells(pair, "", ""), Cell(task), w.count(len(within)),
                Cell(", ".join(map(str, within)) or w.NONE),
                Cell(", ".join(map(str, left)) or w.NONE, sub=why),
            ))  # fmt: skip
    if whole:
        return None
    return Table(
        "shared",
        "Blocks that all trained models share",
        (
            *lead.columns,
            TASK,
            Column("blocks", "Seeds used"),
            Column("seeds", "Which", numeric=False),
            Column("left_out", "Left out", numeric=False),
        ),
        tuple(rows),
        "Averages and shares of the teacher's score use these tasks and seeds and no others.",
        heads=len(lead.columns) + 1,
    )


def settings(frame: pd.DataFrame) -> Table | None:
    """How each trained model was trained; several values in a place are all listed."""
    cells_of = trained(frame)
    if cells_of.empty:
        return None
    lead = Lead(frame, task=False)
    used = [c for c in SETTINGS if values(cells_of[c.key])]
    used += [
        c
        for c in WEIGHTED
        if c.key in cells_of and {*values(cells_of[c.key])} - {fairness.WEIGHTING[c.key]}
    ]
    rows = [
        (
            *lead.cells(pair, "", arm),
            *(Cell(", ".join(values(cells[c.key])) or w.NONE) for c in used),
        )
        for (pair, arm), cells in groups(cells_of, "pair", "arm")
    ]
    return Table(
        "settings",
        "How each model was trained",
        (*lead.columns, *used),
        tuple(rows),
        "As recorded by the runs, all tasks and seeds together.",
        heads=len(lead.columns),
    )


def splits(frame: pd.DataFrame) -> Table:
    """Per task: the metric and how many rows were trained on, selected on and reported on."""
    rows = []
    for task, (metric, direction) in metrics_of(frame).items():
        done = frame[(frame["task"] == task) & (frame["status"] == "done")]
        prints = dict.fromkeys(str(e.get("data_fingerprint") or "") for e in done["environment"])
        measure = f"{w.metric_name(metric)} {arrow(direction)}" if metric else w.NONE
        sizes = [
            Cell(", ".join(f"{int(v):,}" for v in sorted(set(done[key].dropna()))) or w.NONE)
            for key in ("n_train", "n_selection", "n_report")
        ]
        rows.append(
            (Cell(task), Cell(measure, metric), *sizes, w.word(", ".join(filter(None, prints))))
        )
    columns = (
        TASK,
        Column("metric", "Primary metric", numeric=False),
        Column("n_train", "Training rows"),
        Column("n_selection", "Selection rows"),
        Column("n_report", "Report rows"),
        Column("data", "Data fingerprint", numeric=False),
    )
    return Table(
        "splits",
        "Rows of each task",
        columns,
        tuple(rows),
        "The best checkpoint is chosen on the selection rows, which are carved from the training "
        "data; the report rows are scored once, afterwards.",
    )
