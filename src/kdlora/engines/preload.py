"""All that a worker needs, loaded by the workers' server without a look for garbage in between.

The imports make a million objects that stay, and to walk them again and again takes a fifth of
the server's start. The patterns of weights' names that transformers compiles before it reads a
first model are compiled here, too: each worker would do so again.

The server ignores Ctrl-C by itself, but only after these imports; before, it would tell of it by
a long traceback. Who starts it blocks the signal (`local._ensure_server`), which tells it from any
other process that imports this: here it ends without a word, as what it was started for does.
"""

from __future__ import annotations

import contextlib
import gc
import signal
from importlib import import_module

blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
handler = signal.getsignal(signal.SIGINT)
if blocked:
    if handler is signal.default_int_handler:  # else it is ignored already
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
gc.disable()
try:
    with contextlib.suppress(ImportError, AttributeError):  # of transformers' own: it may move
        import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    import_module("kdlora.engines.worker")
finally:
    gc.enable()
    if blocked:
        signal.signal(signal.SIGINT, handler)
