"""What a classifier calls its outputs, and whether these are a task's classes.

It asks a config.json alone, so that a plan can tell what no run could use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from kdlora.errors import ModelError
from kdlora.vocabulary.task import MULTILABEL, Task

_NAMELESS = re.compile(r"LABEL_\d+")


def names_in(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of a classifier's outputs in their order; () where its config has no name for each.

    The outputs are numbered from 0 on, by texts in a file and by numbers in transformers.
    """
    labels = config.get("id2label")
    if not isinstance(labels, Mapping):
        return ()
    by_number = {str(number): str(name) for number, name in labels.items()}
    in_order = [str(number) for number in range(len(labels))]
    return tuple(by_number[number] for number in in_order) if {*in_order} == {*by_number} else ()


def are_nameless(names: Sequence[str]) -> bool:
    """Whether these are the names that say nothing, LABEL_0 and so on."""
    return all(_NAMELESS.fullmatch(name) for name in names)


def label_permutation(given: Sequence[str], wanted: Sequence[str]) -> list[int] | None:
    """For each wanted label its place among the given ones; None where the two sets differ.

    Case and what joins the words do not count.
    """
    places = {_plain(name): i for i, name in enumerate(given)}
    names = [_plain(name) for name in wanted]
    if len(places) != len(given) or sorted(places) != sorted(names):
        return None
    return [places[name] for name in names]


def _plain(name: str) -> str:
    return re.sub(r"[\s_\-]+", " ", name.strip().casefold())


def require_outputs(names: Sequence[str], task: Task, *, where: str) -> None:
    """Raises ModelError for a classifier given as fine-tuned whose outputs are not the task's."""
    if len(names) != task.num_outputs:
        wanted = ", ".join(task.label_names) or "one number"
        raise ModelError(
            f"{where}: given as fine-tuned for task '{task.name}', but it has {len(names)} outputs "
            f"({', '.join(names)}) where the task has {task.num_outputs} ({wanted})"
        )
    unlike = label_permutation(names, task.label_names) is None
    if task.label_names and unlike and not are_nameless(names):
        raise ModelError(
            f"{where}: its outputs are named {', '.join(names)}, but those of task '{task.name}' "
            f"are {', '.join(task.label_names)}. Correct id2label in its config.json"
        )


def require_problem_type(stated: object, task: Task, *, where: str) -> None:
    """Raises ModelError for a classifier that was not trained for a task's kind of answer.

    `stated` is `problem_type` of its config. One that says nothing answers with one class of
    several: whoever trains several labels a text with transformers has to say it.
    """
    if (stated == MULTILABEL.problem_type) == task.kind.several:
        return
    given = f"problem_type {stated}" if stated else "no problem_type"
    raise ModelError(
        f"{where}: given as fine-tuned for task '{task.name}', a {task.kind}, but its config has "
        f"{given}, and so its outputs answer another question. If the config is wrong, set "
        f"problem_type to {task.kind.problem_type} in its config.json"
    )


def entailment_output(names: Sequence[str], *, where: str) -> int:
    """The place of the output called entailment, whatever its capitals ("ENTAILMENT", "entail").

    Raises ModelError with the names that there are.
    """
    found = [i for i, name in enumerate(names) if name.strip().casefold().startswith("entail")]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(names) or "not named"
    raise ModelError(
        f"{where}: a zero-shot teacher needs one output called entailment, but its outputs are "
        f"{shown}. Give a model that was fine-tuned on natural language inference (such as MNLI); "
        "if it was, name its outputs in id2label of its config.json"
    )
