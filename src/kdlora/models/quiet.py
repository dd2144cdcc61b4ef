"""Keep the libraries' own chatter out of kdlora's output; what matters is in the records."""

from __future__ import annotations

import os
import warnings


def silence_libraries() -> None:
    """Turn off progress bars and notes about new heads (kdlora records them itself)."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="peft")
