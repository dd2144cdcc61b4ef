"""Which run is next: decisions on a plan that every engine shares.

Nothing here starts a process, reads a clock or touches a disk. An engine asks `Schedule.take` for
a run whenever it has room for one, and says what became of it.

The order: block by block (one pair, task and seed, as the plan lists them), so that a study that is
stopped early holds whole blocks to compare; inside a block the longest chain of work first, which
puts a teacher before its students. A later block fills a place only where an earlier one cannot.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Literal

from kdlora.errors import KdloraError
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

# What becomes of a run. "skipped": a run it needs failed. "later": no time left for it. "stopped":
# an early decision made it needless. The other four mean that it is not over.
State = Literal["waiting", "running", "leased", "done", "failed", "skipped", "later", "stopped"]
OPEN = ("waiting", "running", "leased")

# Whether a run may start: now, perhaps when another run has ended, or not at all.
Decision = Literal["go", "wait", "stop"]


class Schedule:
    """The runs of a plan on their way from waiting to done.

    Args:
        done: ids of the runs that have a record.
        failed: ids of those that failed before and are not tried again.
        only: ids to do; what they need of teachers is added. None means all.
        seconds: estimated duration of each run; without it all count the same.
        decide: asked before a run starts, and again after each end while it says "wait" (early
            decisions such as successive halving).
        begun: whether a run has a checkpoint from which it would go on.

    Raises KdloraError when a student's teacher is not in the plan.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        done: Collection[str] = (),
        failed: Collection[str] = (),
        only: Collection[str] | None = None,
        seconds: Mapping[str, float] | None = None,
        decide: Callable[[Run], Decision] = lambda run: "go",
        begun: Callable[[Run], bool] = lambda run: False,
    ) -> None:
        everything = {run.run_id: run for run in plan.runs}
        for run in plan.runs:
            if missing := [t for t in run.teachers if t not in everything]:
                raise KdloraError(f"the plan has no run {missing[0]}, the teacher of {run.run_id}")
        chosen = everything if only is None else with_teachers(plan, only)
        self.runs = {run_id: run for run_id, run in everything.items() if run_id in chosen}
        self.seconds = {i: (seconds or {}).get(i, 1.0) for i in self.runs}
        self.decide, self.begun = decide, begun
        self.states: dict[str, State] = {}
        self.students: dict[str, list[str]] = {run_id: [] for run_id in self.runs}
        for run in self.runs.values():
            state: State = "waiting"
            if run.run_id in done:
                state = "done"
            elif run.run_id in failed:
                state = "failed"
            self.states[run.run_id] = state
            for teacher in run.teachers:
                self.students[teacher].append(run.run_id)
        self.open = sum(state == "waiting" for state in self.states.values())
        self._left_s = sum(self.seconds[run.run_id] for run in self.in_state("waiting"))
        # Estimates are corrected by what runs really took; three runs' worth of trust in them.
        trust = 3 * self._left_s / max(self.open, 1) if seconds else 0.0
        self._estimated_s, self._measured_s = trust, trust
        self._order = _order(plan, self.runs, self.seconds, self.students)
        self._ready: list[tuple[tuple[float, ...], str]] = []
        self._undecided: list[str] = []
        self._labelling: dict[str, str] = {}  # teacher -> the student that fills its cache
        self._labelled: set[str] = set()
        self._held: dict[str, list[str]] = {}
        self._news: list[tuple[Run, str]] = []
        for run_id, state in list(self.states.items()):
            if state == "failed":
                self._block_students(run_id)
        for run_id in self.runs:
            self._offer(run_id)

    def take(self, remaining_s: float | None = None) -> Run | None:
        """The next run to start, now counted as running; None while there is nothing to start.

        `remaining_s`: a run that has not begun and is estimated to take longer starts only where
        no other can. It will be stopped, but night after night it comes to its end.
        """
        if remaining_s is not None and remaining_s <= 0:
            return None
        too_long: list[str] = []
        chosen: str | None = None
        while self._ready and chosen is None:
            _, run_id = heapq.heappop(self._ready)
            run = self.runs[run_id]
            if self.states[run_id] != "waiting" or not self._taught(run):
                continue  # a lost teacher offers its students again when it is done
            decision = self.decide(run)
            if decision == "wait":
                self._undecided.append(run_id)
            elif decision == "stop":
                self._settle(run_id, "stopped")
            elif (busy := self._busy_teacher(run)) is not None:
                self._held.setdefault(busy, []).append(run_id)
            elif remaining_s is None or self._fits(run, remaining_s):
                chosen = run_id
            else:
                too_long.append(run_id)
        if chosen is None and too_long:
            chosen = too_long.pop(0)
        for run_id in too_long:
            self._offer(run_id)
        if chosen is not None:
            return self._begin(self.runs[chosen])
        if self._undecided and not self.in_state("running", "leased"):
            # The decision needs runs that are not to be done this time.
            undecided, self._undecided = self._undecided, []
            for run_id in undecided:
                self._settle(run_id, "later")
        return None

    def labelled(self, run_id: str) -> None:
        """A running student has all logits of its teachers: the others may use them now."""
        for teacher in self.runs[run_id].teachers:
            self._labelled.add(teacher)
            self._release(teacher)

    def ended(
        self,
        run_id: str,
        state: Literal["done", "failed", "stopped", "later"],
        *,
        took_s: float | None = None,
        why: str | None = None,
    ) -> None:
        """A run is over, wherever it ran; its students become ready or are skipped.

        `took_s` is given for a run that was done here from beginning to end; `why` says in the
        news how it was that a run is left for later.
        """
        if took_s is not None:
            self._estimated_s += self.seconds[run_id]
            self._measured_s += took_s
        self._settle(run_id, state, why)
        self.reconsider()

    def reconsider(self) -> None:
        """Ask `decide` again about the runs that were to wait."""
        again, self._undecided = self._undecided, []
        for other in again:
            self._offer(other)

    def leased(self, run_id: str) -> None:
        """Another process works on the run. Say `ended` or `again` when that is over."""
        self.states[run_id] = "leased"
        self._stop_labelling(run_id)

    def again(self, run_id: str) -> None:
        """A run that was running, here or leased, ended without a result: it waits again."""
        self._stop_labelling(run_id)
        self._wait(run_id)
        self.reconsider()

    def lost(self, run_id: str) -> None:
        """A run that was done has no record any more: it waits again, and its students for it."""
        if self.states[run_id] != "done":
            return
        self.open += 1
        self._left_s += self.seconds[run_id]
        self._labelled.discard(run_id)
        self._wait(run_id)

    def news(self) -> list[tuple[Run, str]]:
        """The runs that were skipped, stopped or left for later since the last call, and why."""
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """No time is left: nothing that waits starts any more."""
        for run_id, state in list(self.states.items()):
            if state in ("waiting", "leased"):
                self._settle(run_id, "later")

    def in_state(self, *states: State) -> list[Run]:
        return [run for run_id, run in self.runs.items() if self.states[run_id] in states]

    def remaining_s(self, workers: int, spent_s: Iterable[float] = ()) -> float | None:
        """Seconds until all is over with so many workers, by the estimates and what runs took.

        `spent_s`: what the running ones have behind them. None while nothing is known.
        """
        if not self._estimated_s:
            return None
        return max(self._corrected(self._left_s) - sum(spent_s), 0.0) / workers

    def _corrected(self, estimated_s: float) -> float:
        """An estimate as what runs really took makes it."""
        if not self._estimated_s:
            return estimated_s
        return estimated_s * self._measured_s / self._estimated_s

    def _fits(self, run: Run, remaining_s: float) -> bool:
        return self._corrected(self.seconds[run.run_id]) <= remaining_s or self.begun(run)

    def _begin(self, run: Run) -> Run:
        self.states[run.run_id] = "running"
        for teacher in run.teachers:
            if teacher not in self._labelled:
                self._labelling[teacher] = run.run_id
        return run

    def _wait(self, run_id: str) -> None:
        """Back to waiting, unless what it learns from was lost and then could not be done."""
        self.states[run_id] = "waiting"
        self._offer(run_id)
        for teacher in self.runs[run_id].teachers:
            if self.states[teacher] not in (*OPEN, "done"):
                self._block_students(teacher)

    def _offer(self, run_id: str) -> None:
        run = self.runs[run_id]
        if self.states[run_id] == "waiting" and self._taught(run):
            heapq.heappush(self._ready, (self._order[run_id], run_id))

    def _taught(self, run: Run) -> bool:
        """Whether all that the run learns from is done."""
        return all(self.states[teacher] == "done" for teacher in run.teachers)

    def _settle(self, run_id: str, state: State, why: str | None = None) -> None:
        if self.states[run_id] not in OPEN:
            return
        self._close(run_id, state)
        self._stop_labelling(run_id)
        if state == "done":
            for student in self.students[run_id]:
                self._offer(student)
            return
        if state == "later":
            self._news.append((self.runs[run_id], why or "no time is left for it"))
        elif state == "stopped":
            self._news.append((self.runs[run_id], "an early decision made it needless"))
        self._block_students(run_id)

    def _close(self, run_id: str, state: State) -> None:
        self.states[run_id] = state
        self.open -= 1
        self._left_s -= self.seconds[run_id]

    def _block_students(self, run_id: str) -> None:
        """Students of a run that will not be done here, and theirs."""
        why: State = "later" if self.states[run_id] == "later" else "skipped"
        waiting = [run_id]
        while waiting:
            teacher = waiting.pop()
            for student in self.students[teacher]:
                if self.states[student] == "waiting":
                    self._close(student, why)
                    self._news.append((self.runs[student], f"its teacher {teacher} is not done"))
                    waiting.append(student)

    def _busy_teacher(self, run: Run) -> str | None:
        """A teacher whose logits another student is computing at this moment."""
        return next((teacher for teacher in run.teachers if teacher in self._labelling), None)

    def _stop_labelling(self, run_id: str) -> None:
        for teacher in self.runs[run_id].teachers:
            if self._labelling.get(teacher) == run_id:
                self._release(teacher)

    def _release(self, teacher: str) -> None:
        self._labelling.pop(teacher, None)
        for run_id in self._held.pop(teacher, ()):
            self._offer(run_id)


def with_teachers(plan: Plan, only: Iterable[str]) -> set[str]:
    """The given run ids and those of all runs that they need."""
    runs = {run.run_id: run for run in plan.runs}
    chosen: set[str] = set()
    waiting = [run_id for run_id in only if run_id in runs]
    while waiting:
        run_id = waiting.pop()
        if run_id not in chosen:
            chosen.add(run_id)
            waiting += runs[run_id].teachers
    return chosen


def _order(
    plan: Plan,
    runs: Mapping[str, Run],
    seconds: Mapping[str, float],
    students: Mapping[str, list[str]],
) -> dict[str, tuple[float, ...]]:
    """Sort keys: the run's first block, then the longest chain that waits for it, then the plan.

    A teacher's block is the first of any student's, for an ensemble takes teachers of other seeds.
    """
    numbers: dict[tuple[str, str, int], int] = {}
    counter = itertools.count()
    block: dict[str, float] = {}
    for cell in plan.cells:
        key = (cell.pair, cell.task, cell.seed)
        if key not in numbers:
            numbers[key] = next(counter)
        block.setdefault(cell.run_id, numbers[key])
    place = {run_id: index for index, run_id in enumerate(runs)}
    chain = dict(seconds)
    # Backwards: the plan lists a teacher before its students, so these are complete by then.
    for run_id in reversed(list(runs)):
        waiting = [student for student in students[run_id] if student in runs]
        chain[run_id] += max((chain[student] for student in waiting), default=0.0)
        blocks = [block.get(run_id, len(numbers)), *(block[student] for student in waiting)]
        block[run_id] = min(blocks)
    return {run_id: (block[run_id], -chain[run_id], place[run_id]) for run_id in runs}
