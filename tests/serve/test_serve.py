"""The server: what it takes and refuses, batches across requests, and a clean end.

The server of most tests is the real command in a process where torch cannot be imported.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.serve_client import Tally, ask_once, keep_asking, predict_bytes, read_answer
from kdlora.cli import main
from kdlora.errors import InputError
from kdlora.serve.app import make_app
from kdlora.serve.batching import Batcher
from kdlora.serve.requests import Limits, RequestError, parse_request
from kdlora.serve.server import listen
from kdlora.ship.answers import Predictor
from tests.harness.serving import ask, call, get, serving
from tests.harness.threads import apart


def test_answers_are_the_models(port: int, predictor: Predictor) -> None:
    texts = ["good film", "", "bad dull film", "naïve ✓ good"]
    expected = predictor([texts])
    assert ask(port, predict_bytes({"texts": texts})) == (200, {"predictions": expected})
    assert ask(port, predict_bytes({"text": "good film"})) == (200, {"predictions": expected[:1]})


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{'text': 1}", 400, "not valid JSON"),
        (b"", 400, "the body is empty"),
        (b'{"text": "\\ud800"}', 400, "not valid JSON"),
        (b"[" * 20_000, 400, "not valid JSON"),
        (b'"good"', 422, "a text given instead of an object"),
        (b"{}", 422, "no 'text' and no 'texts'"),
        (b'{"text": "a", "texts": ["b"]}', 422, "both"),
        (b'{"text": "a", "temperature": 2}', 422, "unknown key 'temperature'"),
        (b'{"txet": "a"}', 422, "Did you mean 'text'"),
        (b'{"text": "a", "second": "b"}', 422, "this model reads single texts"),
        (b'{"texts": []}', 422, "an empty list"),
        (b'{"texts": ["a", null, 3]}', 422, "'texts[2]' is a number, not a text"),
        (b'{"text": "' + b"a" * 501 + b'"}', 413, "501 characters, at most 500"),
        (json.dumps({"texts": ["a"] * 65}).encode(), 413, "65 texts given, at most 64"),
        (b'{"text": "' + b"a" * 60_000 + b'"}', 413, "larger than 0.05 MB"),
        (b"x" * 500_000, 413, "larger than 0.05 MB"),
    ],
)
def test_what_is_refused(port: int, body: bytes, status: int, told: str) -> None:
    found, answer = ask(port, predict_bytes(body))
    assert found == status
    assert set(answer) == {"error"}
    assert any(told in problem for problem in answer["error"]["problems"]), answer


def test_all_problems_at_once() -> None:
    with pytest.raises(RequestError) as error:
        parse_request(b'{"texts": [1, "a", ["b", "c"]], "x": 0}', columns=1, limits=Limits())
    assert len(error.value.problems) == 4  # two items, the key, and what was expected
    many = json.dumps({"texts": [1] * 1000}).encode()
    with pytest.raises(RequestError, match="and perhaps more"):
        parse_request(many, columns=1, limits=Limits(queue=2000))


def test_pairs_are_columns() -> None:
    def parse(values: Any) -> list[list[str]]:
        return parse_request(json.dumps(values).encode(), columns=2, limits=Limits())

    assert parse({"text": "a", "second": "b"}) == [["a"], ["b"]]
    assert parse({"texts": [["a", "b"], ["c", "d"]]}) == [["a", "c"], ["b", "d"]]
    for wrong in ({"text": "a"}, {"texts": ["a"]}, {"texts": [["a"]]}):
        with pytest.raises(RequestError, match="pairs of texts"):
            parse(wrong)
    with pytest.raises(RequestError, match="'text' is a list, not a text"):
        parse({"text": ["a", "b"]})


def test_other_ways_in(port: int) -> None:
    raw = predict_bytes({"text": "good"})
    plain = raw.replace(b"application/json", b"text/plain")
    assert ask(port, plain)[0] == 415  # which also keeps other sites' forms out
    assert ask(port, raw.replace(b"application/json", b"application/json; charset=utf-8"))[0] == 200
    status, answer = get(port, "/predct")
    assert status == 404
    assert "Did you mean '/predict'" in answer["error"]["problems"][0]
    status, answer = get(port, "/predict")
    assert (status, answer["error"]["problems"]) == (405, ["GET /predict given, expected POST"])
    assert ask(port, b"\x16\x03\x01\x02\r\n\r\n")[0] == 400
    assert ask(port, b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000)[0] == 431


def test_health_and_metrics(port: int) -> None:
    status, health = get(port, "/health")
    assert (status, health["status"], health["variant"]) == (200, "ok", "onnx-int8")
    assert health["labels"] == ["negative", "positive"]

    def figures() -> dict[str, float]:
        lines = get(port, "/metrics")[1].splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")
        }

    before = figures()
    ask(port, predict_bytes({"texts": ["good", "bad " * 50, "dull"]}))
    ask(port, predict_bytes(b"{"))
    get(port, "/made/up/1"), get(port, "/made/up/2")
    after = figures()
    grown = {name: n - before.get(name, 0) for name, n in after.items()}
    assert grown["kdlora_texts_total"] == 3
    assert grown["kdlora_truncated_texts_total"] == 1
    assert grown["kdlora_batch_texts_sum"] == 3
    assert grown["kdlora_batch_texts_count"] == grown["kdlora_predict_seconds_count"] == 1
    assert grown['kdlora_errors_total{kind="not_json"}'] == 1
    assert grown['kdlora_requests_total{path="/predict",status="400"}'] == 1
    assert grown['kdlora_requests_total{path="other",status="404"}'] == 2
    assert not any("made" in name for name in after)
    assert after["kdlora_queue_texts"] == 0


def test_slow_clients_are_sent_away_while_others_are_served(port: int) -> None:
    whole = predict_bytes({"text": "good film"})

    async def both() -> tuple[list[int], list[int], float]:
        slow = [ask_once(port, part) for part in (whole[:30], whole[:-4], b"") for _ in range(20)]
        waiting = [asyncio.create_task(one) for one in slow]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        good = [(await ask_once(port, whole))[0] for _ in range(20)]
        seconds = time.monotonic() - began
        return good, [(await one)[0] for one in waiting], seconds

    good, slow, seconds = apart(asyncio.run, both())
    assert set(good) == {200}
    assert set(slow) == {408}
    assert seconds < 5


def test_a_drip_does_not_prolong_the_wait(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        began = time.monotonic()
        client.sendall(b"POST /predict HTTP/1.1\r\n")
        try:
            while time.monotonic() - began < 8:
                client.sendall(b"x: y\r\n")
                time.sleep(0.2)
        except OSError:
            pass
        assert 0.5 < time.monotonic() - began < 5


def test_keep_alive_and_pipelining(port: int) -> None:
    async def several() -> list[int]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = []
        for raw in (predict_bytes({"text": "good"}), predict_bytes(b"{")) * 3:
            writer.write(raw)
            found.append((await read_answer(reader))[0])
        writer.write(predict_bytes({"text": "good"}) * 3)
        found += [(await read_answer(reader))[0] for _ in range(3)]
        writer.close()
        return found

    assert apart(asyncio.run, several()) == [200, 400] * 3 + [200] * 3


def test_pages_need_no_other_host(port: int) -> None:
    for path in ("/", "/docs", "/assets/serve.css", "/assets/try.js", "/assets/docs.js"):
        status, text = get(port, path)
        assert status == 200
        assert not re.search(r"https?://|\burl\(|@import", text), path
    status, api = get(port, "/openapi.json")
    assert status == 200
    assert set(api["paths"]) == {"/predict", "/health", "/metrics"}
    told = api["paths"]["/predict"]["post"]
    assert {"400", "408", "413", "415", "422", "503", "504"} < set(told["responses"])


def batcher(answer: Callable[[Any], list], **limits: Any) -> tuple[Batcher, list[int]]:
    """A batcher before `answer`, and the sizes of the batches that it makes."""
    sizes: list[int] = []

    class Watch:
        def waiting(self, texts: int) -> None:
            assert 0 <= texts <= made.limits.queue

        def batch(self, texts: int, seconds: float) -> None:
            sizes.append(texts)

    made = Batcher(answer, Limits(**limits), Watch())
    return made, sizes


def test_requests_that_wait_are_computed_together() -> None:
    def slow(columns: list[list[str]]) -> list[dict]:
        time.sleep(0.02)
        return [{"label": text} for text in columns[0]]

    async def work() -> tuple[list, list[int]]:
        made, sizes = batcher(slow, max_batch=8, max_wait_ms=5)
        made.start()
        asked = [[f"{i}.{j}" for j in range(1 + i % 3)] for i in range(40)]
        found = await asyncio.gather(*(made.submit([texts]) for texts in asked))
        await made.stop()
        return [[a["label"] for a in answer] == texts
                for answer, texts in zip(found, asked, strict=True)], sizes  # fmt: skip

    right, sizes = apart(asyncio.run, work())
    assert all(right)  # everyone gets the answers to their own texts
    assert sum(sizes) == sum(1 + i % 3 for i in range(40))
    assert max(sizes) <= 8
    assert len(sizes) <= 16


def test_a_lone_caller_does_not_wait() -> None:
    async def work() -> float:
        made, _ = batcher(lambda columns: [{}] * len(columns[0]), max_wait_ms=500)
        made.start()
        began = time.monotonic()
        for _ in range(3):
            await made.submit([["a"]])
        seconds = time.monotonic() - began
        await made.stop()
        return seconds

    assert apart(asyncio.run, work()) < 0.5


def test_a_full_queue_and_a_slow_model() -> None:
    gate = threading.Event()

    def stuck(columns: list[list[str]]) -> list[dict]:
        gate.wait(10)
        return [{}] * len(columns[0])

    async def work() -> tuple[list[RequestError], list[int]]:
        made, sizes = batcher(stuck, queue=4, max_batch=2, timeout_s=0.3, max_wait_ms=0)
        made.start()
        first = asyncio.create_task(made.submit([["a", "b"]]))
        await asyncio.sleep(0.05)  # computed, no longer in the queue
        rest = [asyncio.create_task(made.submit([["c"] * 2])) for _ in range(3)]
        found = await asyncio.gather(first, *rest, return_exceptions=True)
        gate.set()
        assert await made.submit([["d"]]) == [{}]  # and then goes on
        await made.stop()
        return found, sizes

    found, sizes = apart(asyncio.run, work())
    assert [(e.status, e.kind) for e in found] == [(504, "timeout")] * 3 + [(503, "queue_full")]
    assert found[3].retry_after_s >= 1
    assert sizes == [2, 1]  # what had given up was not computed


@pytest.mark.parametrize("max_batch", [1, 8])
def test_a_failing_model_fails_its_requests_only(max_batch: int) -> None:
    def fussy(columns: list[list[str]]) -> list[dict]:
        if "bomb" in columns[0]:
            raise ZeroDivisionError("boom")
        return [{}] * len(columns[0])

    async def work() -> list:
        made, _ = batcher(fussy, max_batch=max_batch)
        made.start()
        tasks = [made.submit([[text]]) for text in ("a", "bomb", "b")]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        await made.stop()
        return found

    found = apart(asyncio.run, work())
    assert found[0] == found[2] == [{}]
    assert isinstance(found[1], ZeroDivisionError)


def test_internal_errors_and_stopping_as_seen_from_outside(predictor: Predictor) -> None:
    """Straight into the application, with a model that fails."""

    def broken(texts: Any) -> Any:
        raise ZeroDivisionError("a secret of the house")

    async def work() -> None:
        app = make_app(Predictor(predictor.card, "onnx", broken))
        state = app.state.serve
        state.batcher.start()
        status, _, answer = await call(app, "POST", "/predict", b'{"text": "good"}')
        assert status == 500
        assert "secret" not in json.dumps(answer)
        state.draining = True
        status, headers, answer = await call(app, "GET", "/health")
        assert (status, answer["status"], headers[b"connection"]) == (503, "stopping", b"close")
        state.batcher._rows = state.limits.queue
        status, headers, answer = await call(app, "POST", "/predict", b'{"text": "good"}')
        assert (status, answer["error"]["kind"]) == (503, "queue_full")
        assert int(headers[b"retry-after"]) >= 1

    apart(asyncio.run, work())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_end_loses_no_accepted_request(folder: Path, name: str) -> None:
    async def work(process: subprocess.Popen[str], port: int) -> Tally:
        tally = Tally()
        load = asyncio.create_task(keep_asking(port, 16, until=asyncio.Event(), tally=tally))
        await asyncio.sleep(0.7)
        process.send_signal(getattr(signal, name))
        await asyncio.wait_for(load, 20)
        return tally

    with serving(folder) as (process, port):
        tally = apart(asyncio.run, work(process, port))
        told = process.communicate(timeout=20)[1]
    assert process.returncode == 0
    assert tally.lost == 0
    counts = re.search(r"(\d+) requests accepted, (\d+) answered", told)
    assert counts, told
    assert counts[1] == counts[2] == str(tally.statuses[200])
    assert set(tally.statuses) == {200}


def test_bad_options(folder: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["serve", str(folder), "--max-batch", "0", "--timeout-s", "-1"])
    assert end.value.code == 2
    told = capsys.readouterr().err
    assert "--max-batch 0" in told
    assert "--timeout-s -1" in told
    with listen("127.0.0.1", 0) as bound:
        bound.listen()
        with pytest.raises(InputError, match="Give another --port"):
            listen("127.0.0.1", bound.getsockname()[1])
    with pytest.raises(InputError, match="cannot listen on host 'no such host'"):
        listen("no such host", 1)
