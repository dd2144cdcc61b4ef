"""The options by which a command reads a part of a study, see `records.subset`."""

from __future__ import annotations

from typing import Annotated

import typer

from kdlora.cli import completion

Where = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=VALUE",
        autocompletion=completion.runs,
        help="Only runs with this value (task=rte, pair=bert*, rank=8) or of this arm; many times: "
        "values of one column are alternatives, all columns must hold.",
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ARM",
        autocompletion=completion.runs,
        help="Leave out an arm (student/dora, teacher/*) or what has a value (task=wnli); many "
        "times.",
    ),
]
