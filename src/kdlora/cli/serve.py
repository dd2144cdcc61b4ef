"""`kdlora serve`: one model behind an HTTP interface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdlora.cli.terminal import say
from kdlora.errors import InputError


def serve(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="An exported folder, a saved student, a study, which means its student, or a name "
            "of the model hub.",
        ),
    ],
    variant: Annotated[
        str | None,
        typer.Option(help="torch, onnx, onnx-int8 or onnx-int4. Default: fastest that passed."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address; 0.0.0.0 is all of them.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A name under which it may be asked, beside localhost; may be given again. "
            "* is any.",
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of one batch. Default: all processors.", min=1)
    ] = None,
    workers: Annotated[int, typer.Option(help="Batches computed at once.", min=1, max=64)] = 1,
    max_batch: Annotated[int, typer.Option(help="Texts computed together.")] = 32,
    max_wait_ms: Annotated[float, typer.Option(help="Wait for company at most.")] = 2.0,
    queue: Annotated[int, typer.Option(help="Texts that wait; beyond it: 503.")] = 256,
    timeout_s: Annotated[float, typer.Option(help="Until an answer; beyond it: 504.")] = 10.0,
    body_timeout_s: Annotated[
        float, typer.Option(help="Until a request is whole; beyond it: 408.")
    ] = 5.0,
    max_text_chars: Annotated[int, typer.Option(help="Of one text; beyond it: 413.")] = 20_000,
    max_body_mb: Annotated[float, typer.Option(help="Of one request; beyond it: 413.")] = 1.0,
    max_connections: Annotated[int, typer.Option(help="Open at once; beyond it: 503.")] = 512,
) -> None:
    """Serve a model over HTTP: /predict, /health, /metrics, /docs, and a page to try it at /."""
    from pydantic import ValidationError

    from kdlora.extras import need

    need("serving a model", "fastapi", "uvicorn", "httptools", "prometheus_client")
    from kdlora.serve.hosts import allowed_hosts
    from kdlora.serve.requests import Limits
    from kdlora.serve.server import listen
    from kdlora.serve.server import serve as run
    from kdlora.ship.predict import load_predictor

    try:
        limits = Limits(
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            queue=queue,
            timeout_s=timeout_s,
            body_timeout_s=body_timeout_s,
            max_text_chars=max_text_chars,
            max_body_mb=max_body_mb,
            max_connections=max_connections,
        )
    except ValidationError as error:
        raise InputError(
            f"--{str(e['loc'][0]).replace('_', '-')} {e['input']}: {e['msg']}"
            for e in error.errors()
        ) from None
    hosts = allowed_hosts(host, allow_host or ())
    bound = listen(host, port)  # before the model is loaded: a taken port is told at once
    predictor = load_predictor(model, variant=variant, threads=threads)

    def ready(url: str) -> None:
        say(f"{predictor.card.task or model.name} as {predictor.variant} at {url}", flush=True)
        if host not in ("127.0.0.1", "localhost", "::1"):
            say("note: whoever reaches this port may ask; there are no passwords", flush=True)

    served = run(predictor, bound, limits, workers=workers, hosts=hosts, on_ready=ready)
    say(f"stopped: {served}", stderr=True)
