"""The command that mirrors a study's records to MLflow or Trackio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from kdlora.cli.study import StudyFolder
from kdlora.cli.terminal import say


def track(
    folder: StudyFolder,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="An MLflow server (http://...) or database (sqlite:///..., or a file's path); "
            "default: MLFLOW_TRACKING_URI, else mlflow.db in the study's folder.",
        ),
    ] = None,
    trackio: Annotated[
        bool,
        typer.Option("--trackio", help="To Trackio on this machine (TRACKIO_DIR) instead."),
    ] = False,
    artefacts: Annotated[
        bool,
        typer.Option("--artefacts", help="Send each run's record, history and predictions along."),
    ] = False,
    models: Annotated[
        bool,
        typer.Option(
            "--models", help="Log the saved students too, as models that mlflow.pyfunc loads."
        ),
    ] = False,
) -> None:
    """Mirror a study's records to MLflow or Trackio; again, and only what is new is added."""
    from kdlora.errors import InputError
    from kdlora.mirrors.mirror import Target, mirror_study
    from kdlora.records.study_folder import find_study

    given = {"--to": to, "--artefacts": artefacts, "--models": models}
    if trackio and (idle := [name for name, value in given.items() if value]):
        raise InputError(f"{' and '.join(idle)} are of MLflow; leave them out with --trackio")
    root = find_study(folder)
    target = Target("trackio") if trackio else Target("mlflow", to)
    with _one_message(root, target.title):
        done = mirror_study(root, target, artefacts=artefacts)
        say(
            f"{done.records} records of {root} are in {done.location}: {done.added} added, "
            f"{done.replaced} replaced, {done.kept} there already"
        )
        if models:
            _log_models(root, to)


def _log_models(root: Path, uri: str | None) -> None:
    from kdlora.ship.mlflow_model import log_students

    for student in log_students(root, uri):
        state = "added" if student.added else "there already"
        say(f"{student.folder} is the model '{student.name}' ({state}): {student.uri}")


@contextmanager
def _one_message(root: Path, tool: str) -> Iterator[None]:
    """Whatever a tracker, a database or a network says, in one message."""
    from kdlora.errors import KdloraError, StoreError

    try:
        yield
    except KdloraError:
        raise
    except Exception as error:
        first, *_ = (str(error).strip() or type(error).__name__).splitlines()
        raise StoreError(
            f"{tool} did not take the records of {root}: {first}; the records themselves are "
            "untouched, run the same command again when it can be reached"
        ) from None
