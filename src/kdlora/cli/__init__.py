"""The command line: thin commands above `kdlora.api`; errors as one message and exit code 2."""

from __future__ import annotations

import sys


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `kdlora` command."""
    from kdlora.cli.app import app
    from kdlora.errors import KdloraError

    try:
        app(args=arguments)
    except KdloraError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(0)


__all__ = ["main"]
