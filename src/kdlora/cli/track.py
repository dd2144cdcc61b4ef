"""The command that mirrors a study's records to MLflow."""

from __future__ import annotations

from typing import Annotated

import typer

from kdlora.cli.study import StudyFolder


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
    artefacts: Annotated[
        bool,
        typer.Option("--artefacts", help="Send each run's record, history and predictions along."),
    ] = False,
) -> None:
    """Mirror a study's records to MLflow; again, and only what is new is added."""
    from kdlora.errors import KdloraError, StoreError
    from kdlora.mlflow.mirror import mirror_study
    from kdlora.records.frame import find_study

    root = find_study(folder)
    try:
        done = mirror_study(root, uri=to, artefacts=artefacts)
    except KdloraError:
        raise
    except Exception as error:  # whatever mlflow, a database or a network says
        first, *_ = (str(error).strip() or type(error).__name__).splitlines()
        raise StoreError(
            f"MLflow did not take the records of {root}: {first}; the records themselves are "
            "untouched, run the same command again when it can be reached"
        ) from None
    print(
        f"{done.added + done.replaced + done.kept} records of {root} are in MLflow's experiment "
        f"'{done.experiment}' at {done.uri}: {done.added} added, {done.replaced} replaced, "
        f"{done.kept} there already"
    )
