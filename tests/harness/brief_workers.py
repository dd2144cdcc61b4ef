"""Imported by the server of the tests' workers after what it imports for every study.

A tiny model is timed in as few rounds as a timing has, which was an eighth of what a worker did;
and the families that most tests train are loaded once, not by each worker anew.
"""

from __future__ import annotations

import transformers.models.bert.modeling_bert
import transformers.models.distilbert.modeling_distilbert
import transformers.models.roberta.modeling_roberta  # noqa: F401

from kdlora.training import inference

inference.TIMING_S = 0.0
