"""What can go wrong is found before the first run: rows read, models reachable, all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kdlora.data.encoder_files import tokenizer_rules
from kdlora.data.examples import TaskData
from kdlora.errors import Problems
from kdlora.planning.data_looks import Rules, look_at_plan
from kdlora.planning.inputs import read_inputs
from kdlora.planning.model_questions import ModelQuestions, questions_of
from kdlora.records.data_look import DataLook
from kdlora.spec.plan import Plan
from kdlora.spec.run import EncoderRef

OnNote = Callable[[str], None]
CheckModels = Callable[[ModelQuestions, OnNote], dict[str, str]]
Ask = Callable[[CheckModels, ModelQuestions, OnNote], dict[str, str]]


@dataclass(frozen=True)
class Inspected:
    """A look at each task of a plan, its rows by the task's name, and how texts become tokens."""

    looks: list[DataLook]
    data: dict[str, TaskData]
    rules: Rules


def ask_here(check: CheckModels, asked: ModelQuestions, on_note: OnNote) -> dict[str, str]:
    """Look at the models in this process, which loads torch."""
    return check(asked, on_note)


def preflight(plan: Plan, on_note: OnNote, ask: Ask = ask_here) -> Inspected:
    """Read every task's rows and what every encoder says of itself.

    `ask` decides where the models are looked at: in this process, which then loads torch, or in
    one that has it loaded (see `engines.local.call_in_worker`).

    Raises InputError with all problems together; nothing has been written then, but for downloads
    in the cache.
    """
    problems = Problems()
    loaded = read_inputs(plan, problems, on_note=on_note)
    asked = questions_of(plan, loaded)
    made: dict[str, str] = {}
    if asked.models or asked.readers:
        with problems.caught():
            made = ask(_check_models, asked.of_models_alone() if problems else asked, on_note)
    problems.raise_any()

    def rules(encoder: EncoderRef) -> str | None:
        return tokenizer_rules(encoder) or made.get(encoder.title)

    on_note("looking at the data")
    return Inspected(look_at_plan(plan, loaded, rules=rules), loaded, rules)


def _check_models(asked: ModelQuestions, on_note: OnNote) -> dict[str, str]:
    """Named here, because to name it in `model_checks` would load torch where it is only named."""
    from kdlora.planning.model_checks import check_models

    return check_models(asked, on_note)
