"""How every command reads its options."""

from __future__ import annotations

from collections import Counter
from typing import Any

from typer import BadParameter
from typer.core import TyperCommand


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
