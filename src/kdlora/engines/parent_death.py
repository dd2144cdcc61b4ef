"""A worker whose engine was killed: nobody waits for its run, and its memory is wanted."""

from __future__ import annotations

import os
import signal
import threading
import time
from multiprocessing import parent_process


def stop_without_parent(exit_code: int, *, stop_s: float) -> None:
    """Interrupt this process, as Ctrl-C does, when the process that started it is gone.

    It ends with `exit_code` if it has not ended `stop_s` seconds later.
    """
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(stop_s)
        os._exit(exit_code)

    threading.Thread(target=watch, name="parent death", daemon=True).start()
