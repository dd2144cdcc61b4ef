"""The command line: thin commands above `kdlora.api`; errors as one message and exit code 2."""

from __future__ import annotations

import errno
import gc
import io
import sys

from kdlora.errors import Interrupted, KdloraError

# What a disk, its rights and its names are to blame for, and no program.
_OF_THE_MACHINE = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE,
)  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `kdlora` command."""
    try:
        _main(arguments)
    except KeyboardInterrupt:  # where a command has no more to say of it
        sys.stderr.write("error: interrupted\n")
        sys.exit(Interrupted.exit_code)


def _main(arguments: list[str] | None) -> None:
    # Imports and tables make a million objects and hardly a cycle: to look for some after every
    # 700 takes a quarter of a comparison's seconds.
    gc.set_threshold(50_000, 20, 100)
    from kdlora.cli.app import EXTRAS, app
    from kdlora.cli.terminal import say

    for stream in (sys.stdout, sys.stderr):
        # a terminal or pipe that lacks a character gets its number, never a traceback
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=arguments)
    except SystemExit as end:
        if end.code == Interrupted.exit_code:  # which typer makes of Ctrl-C, without a word
            raise KeyboardInterrupt from None
        raise
    except KdloraError as error:
        say(f"error: {error}", stderr=True)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        from kdlora.extras import what_is_missing

        command = next(iter(sys.argv[1:] if arguments is None else arguments), "")
        sentence = what_is_missing(error, f"kdlora {command}", EXTRAS.get(command))
        if sentence is None:
            raise
        say(f"error: {sentence}", stderr=True)
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if error.errno not in _OF_THE_MACHINE:
            raise
        where = f": {error.filename}" if error.filename else ""
        say(f"error: {error.strerror}{where}", stderr=True)
        sys.exit(2)


__all__ = ["main"]
