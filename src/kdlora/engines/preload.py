"""All that a worker needs, loaded by the workers' server without a look for garbage in between.

The imports make a million objects that stay, and to walk them again and again takes a fifth of
the server's start.
"""

from __future__ import annotations

import gc
from importlib import import_module

gc.disable()
try:
    import_module("kdlora.engines.worker")
finally:
    gc.enable()
