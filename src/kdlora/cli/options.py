"""How every command reads its options, and those that several commands share."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from typer import BadParameter, Option
from typer.core import TyperCommand

LabelSeparator = Annotated[
    str | None,
    Option(
        metavar="SIGN",
        help="What stands between the labels of a cell, such as '|': a text may have several.",
    ),
]
LabelColumns = Annotated[
    str | None,
    Option(
        "--labels",
        metavar="A,B,...",
        help="Columns of labels, of which a text may have several: one a label, holding 1 or 0.",
    ),
]


def split_names(given: str | None) -> tuple[str, ...]:
    """Names with commas between; () where none are given."""
    return tuple(name.strip() for name in (given or "").split(",") if name.strip())


def too_small(*given: tuple[str, int | None, int]) -> list[str]:
    """What is wrong with numbers of options, each with its name and the least it may be."""
    return [
        f"--{name} is {value}; expected at least {least}"
        for name, value, least in given
        if value is not None and value < least
    ]


class SingleValued(TyperCommand):
    """A command of which an option that takes one value may be given once.

    The usual rule is that the last one counts: `--label a --label b` would train on b, and say
    nothing of a.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        seen = self.make_parser(ctx).parse_args(args=list(args))[2]  # in order, with repeats
        for option, times in Counter(seen).items():
            several = option.multiple or option.nargs != 1 or option.param_type_name != "option"
            if times > 1 and not several:
                name = "/".join(option.opts + option.secondary_opts)
                raise BadParameter(f"{name} is given {times} times: give it once", ctx)
        return super().parse_args(ctx, args)
