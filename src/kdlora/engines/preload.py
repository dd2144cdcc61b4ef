"""All that a worker needs, loaded by the workers' server without a look for garbage in between.

The imports make a million objects that stay, and to walk them again and again takes a fifth of
the server's start. The patterns of weights' names that transformers compiles before it reads a
first model are compiled here, too: each worker would do so again.
"""

from __future__ import annotations

import contextlib
import gc
from importlib import import_module

gc.disable()
try:
    with contextlib.suppress(ImportError, AttributeError):  # of transformers' own: it may move
        import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    import_module("kdlora.engines.worker")
finally:
    gc.enable()
