"""Early decisions while a plan runs: who may start, until which epoch, and who is out.

Every engine asks the same three questions of a `HalvingDecisions`. Its only memory is the store,
so that several processes on one folder, and one that starts again after a crash, decide alike.
"""

from __future__ import annotations

from collections.abc import Callable

from kdlora.engines.schedule import Decision
from kdlora.records.halving import (
    HalvingVerdict,
    Rung,
    decide,
    race_state,
    read_rung,
    record_decision,
    verdict_of,
)
from kdlora.records.store import Store
from kdlora.spec.halving import Race, races
from kdlora.spec.plan import Plan
from kdlora.spec.run import Run

_HEAVY = (".pt", ".npy", ".tmp")  # checkpoints and cached states of the teacher


class HalvingDecisions:
    """The races of a plan.

    Args:
        lost: whether a run will not get further in this study's run (it failed, or its teacher
            did). Such a candidate is out; one that only waits is waited for.
    """

    def __init__(
        self, plan: Plan, store: Store, *, lost: Callable[[str], bool] = lambda run_id: False
    ) -> None:
        self.store = store
        self.lost = lost
        self._races: dict[str, list[Race]] = {}
        for race in races(plan.halving, (vars(cell) for cell in plan.cells)):
            for _, run_id in race.candidates:
                self._races.setdefault(run_id, []).append(race)
        self._rungs: dict[tuple[str, int], Rung] = {}  # never change once they are there

    def decide(self, run: Run) -> Decision:
        """Whether a run may start (again); `Schedule` asks for every run."""
        if run.run_id not in self._races:
            return "go"
        now = self._verdict(run.run_id)
        if now.stop is not None:
            self._clear(run.run_id)
            return "stop"
        waits = now.pause_epoch is not None and self._rung(run.run_id, now.pause_epoch)
        return "wait" if waits else "go"

    def pause_epoch(self, run_id: str) -> int | None:
        """The epoch after which a run that starts now has to pause; None is its end."""
        return self._verdict(run_id).pause_epoch if run_id in self._races else None

    def _verdict(self, run_id: str) -> HalvingVerdict:
        for race in self._races[run_id]:
            self._settle(race)
        return verdict_of(
            run_id, [race_state(self.store.root, race) for race in self._races[run_id]]
        )

    def _settle(self, race: Race) -> None:
        """Make every decision of a race that can be made."""
        while (now := race_state(self.store.root, race)).epoch is not None:
            scores = [(title, run_id, self._rung(run_id, now.epoch)) for title, run_id in now.alive]
            if any(rung is None and not self.lost(run_id) for _, run_id, rung in scores):
                return
            record_decision(self.store, race, decide(race, now.epoch, scores))

    def _rung(self, run_id: str, epoch: int) -> Rung | None:
        key = (run_id, epoch)
        if key not in self._rungs:
            found = read_rung(self.store, run_id, epoch)
            if found is None:
                return None
            self._rungs[key] = found
        return self._rungs[key]

    def _clear(self, run_id: str) -> None:
        """A stopped run keeps its curve and its rungs, not what only going on would need."""
        for path in self.store.folder(run_id).glob("*"):
            if path.is_file() and path.suffix in _HEAVY:
                path.unlink(missing_ok=True)
