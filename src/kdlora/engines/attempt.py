"""One attempt at a run under its lease: what every engine does where the run happens.

Importing this module loads torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from kdlora import recipes
from kdlora.engines.elsewhere import lost_teachers
from kdlora.engines.failure import describe_error, failed_record, is_disk_full
from kdlora.errors import StoreError
from kdlora.spec.run import Run
from kdlora.store.leases import EXPIRY_S, Lease, LeaseLost, Sighting
from kdlora.store.store import AlreadyDone, Store
from kdlora.training.progress import Paused

# "busy": another process holds the run. "lost": it took the run over meanwhile. "interrupted":
# stopped after a checkpoint. "paused": likewise, at the epoch that was asked for. "full": no space.
# "untaught": what it learns from has no record, or none any more; no fault of the run.
Outcome = Literal["done", "failed", "busy", "lost", "interrupted", "paused", "full", "untaught"]


def attempt(
    run: Run,
    store: Store,
    *,
    on_progress: Callable[[dict[str, Any]], None] = lambda event: None,
    dead: Sighting | None = None,
    expiry_s: float = EXPIRY_S,
    pause_epoch: int | None = None,
) -> Outcome:
    """Do a run unless it is done or somebody else is at it; its failure is recorded.

    Args:
        on_progress: told of each step (see `recipes.run_one`); may raise KeyboardInterrupt.
        dead: another's lease that has been judged dead (see `store.leases.Watch`).
        expiry_s: how long this process may be silent before others take the run over.
        pause_epoch: stop with a checkpoint after this epoch.
    """
    try:
        with store.lease(run.run_id, dead=dead, expiry_s=expiry_s) as lease:
            if lease is None:
                return "busy"
            if store.is_done(run.run_id):
                return "done"
            return _do(run, store, lease, on_progress, pause_epoch)
    except (OSError, StoreError) as error:
        if is_disk_full(error, store.root):
            return "full"
        raise


def _do(
    run: Run,
    store: Store,
    lease: Lease,
    on_progress: Callable[[dict[str, Any]], None],
    pause_epoch: int | None,
) -> Outcome:
    def tell(event: dict[str, Any]) -> None:
        lease.check(now=event.get("stage") == "recording")
        on_progress(event)

    try:
        recipes.run_one(run, store, on_progress=tell, pause_epoch=pause_epoch)
        return "done"
    except (LeaseLost, AlreadyDone):
        return "lost"
    except KeyboardInterrupt:
        return "interrupted"
    except Paused:
        return "paused"
    except BaseException as error:
        if is_disk_full(error, store.root):
            return "full"
        try:
            lease.check(now=True)  # a failure of the new holder's files is not this run's
        except LeaseLost:
            return "lost"
        if lost_teachers(run, store):  # set aside or retired, perhaps while it was being read
            return "untaught"
        store.fail(failed_record(run, describe_error(error)))
        return "failed"
