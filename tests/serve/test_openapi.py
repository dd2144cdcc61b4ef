"""The schema and the answers agree: what it allows is taken, what it forbids is refused, and every
answer is of a status, a type and a shape that it names. The requests are made from the schema."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdlora.serve.app import make_app
from kdlora.serve.requests import Limits
from kdlora.ship.answers import Outputs, Predictor, Texts
from kdlora.ship.card import Abstention, Calibration
from kdlora.ship.predict import load_predictor
from tests.harness.exported import card_of, save_exported
from tests.harness.serving import call
from tests.harness.threads import apart

LIMITS = Limits(max_text_chars=20, queue=5, max_body_mb=0.002)
MANY = settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
KINDS = ("one text", "pairs", "numbers", "answers withheld")
_JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=25)
_JUNK = st.recursive(
    _JSON, lambda v: st.lists(v, max_size=7) | st.dictionaries(st.text(max_size=6), v, max_size=3)
)


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("schema")
    pairs = load_predictor(save_exported(folder / "pairs", pairs=True))
    number = card_of(kind="regression", label_names=[])

    def one_number(texts: Texts) -> Outputs:
        found = pairs.run([texts[0], texts[0]])
        return Outputs(found.logits[:, :1], found.tokens, found.truncated)

    numbers = Predictor(number, "onnx", one_number)
    cut = Abstention(aim=0.9, level=0.95, cut=0.6, lower_bound=0.9)
    unsure = Predictor(card_of(calibration=Calibration(n=9, abstention=cut)), "onnx", predictor.run)
    return {
        kind: make_app(one, LIMITS)
        for kind, one in zip(KINDS, (predictor, pairs, numbers, unsure), strict=True)
    }


def requests_of(schema: dict[str, Any]) -> st.SearchStrategy:
    """Values that a schema allows; only the parts of JSON Schema that the server's has."""
    if "anyOf" in schema:
        return st.one_of(*map(requests_of, schema["anyOf"]))
    match schema["type"]:
        case "null":
            return st.none()
        case "string":
            return st.text(st.characters(codec="utf-8"), max_size=schema["maxLength"])
        case "array" if "prefixItems" in schema:
            return st.tuples(*map(requests_of, schema["prefixItems"])).map(list)
        case "array":
            sizes = {"min_size": schema["minItems"], "max_size": schema["maxItems"]}
            return st.lists(requests_of(schema["items"]), **sizes)
    values = {key: requests_of(value) for key, value in schema["properties"].items()}
    required = {key: value for key, value in values.items() if key in schema["required"]}
    optional = {key: value for key, value in values.items() if key not in required}
    return st.fixed_dictionaries(required, optional=optional)


def spoiled(draw: Callable, value: Any) -> Any:
    """The value with one thing in it replaced, added or taken away."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return value | {key: spoiled(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], spoiled(draw, value[at]), *value[at + 1 :]]
    if isinstance(value, dict) and draw(st.booleans()):
        return value | {draw(st.sampled_from(["text", "second", "texts", "x"])): draw(_JUNK)}
    return draw(_JUNK | st.just("long " * 9) | st.just(["a"] * 6) | st.just({}))


def check_answer(api: dict[str, Any], method: str, path: str, answer: tuple) -> None:
    """The status, the content type and the shape are those of the schema."""
    status, headers, body = answer
    told = api["paths"][path][method]["responses"]
    assert str(status) in told, (status, body)
    kind = headers[b"content-type"].decode().partition(";")[0]
    schema = told[str(status)]["content"][kind]["schema"]
    jsonschema.validate(body, schema | {"components": api.get("components", {})})


@pytest.mark.parametrize("kind", KINDS)
@MANY
@given(st.data())
def test_what_the_schema_allows_is_answered_and_nothing_else(
    apps: dict[str, Any], kind: str, data: st.DataObject
) -> None:
    app, api = apps[kind], apps[kind].openapi()
    operation = api["paths"]["/predict"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    good = data.draw(requests_of(schema))
    bad = spoiled(data.draw, good)
    ascii_only = data.draw(st.booleans())
    bodies = [
        json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        for value in (good, bad)
    ]

    async def work() -> list[tuple]:
        app.state.serve.batcher.start()
        answers = [await call(app, "POST", "/predict", raw) for raw in bodies]
        await app.state.serve.batcher.stop()
        return answers

    for value, raw, answer in zip((good, bad), bodies, apart(asyncio.run, work()), strict=True):
        check_answer(api, "post", "/predict", answer)
        allowed = jsonschema.Draft202012Validator(schema).is_valid(value) and is_text(raw)
        if len(raw) <= LIMITS.max_body_bytes:
            assert (answer[0] == 200) == allowed, (value, answer)


def is_text(raw: bytes) -> bool:
    """Whether a body is JSON at all: no half characters, no NaN."""
    try:
        json.dumps(json.loads(raw), ensure_ascii=False, allow_nan=False).encode()
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_the_other_paths_answer_as_described(apps: dict[str, Any], kind: str) -> None:
    app = apps[kind]

    async def work() -> None:
        api = app.openapi()
        for path in ("/health", "/metrics"):
            for headers in ({}, {"host": "evil.example"}, {"origin": "null"}):
                answer = await call(app, "GET", path, headers=headers)
                assert answer[0] in (200, 421, 403)
                check_answer(api, "get", path, answer)
        app.state.serve.draining = True
        check_answer(api, "get", "/health", await call(app, "GET", "/health"))
        app.state.serve.draining = False

    apart(asyncio.run, work())


def test_every_method_of_every_path(apps: dict[str, Any]) -> None:
    app = apps["one text"]
    methods = dict.fromkeys(("/", "/health", "/metrics", "/docs", "/openapi.json"), "GET")
    methods |= {"/assets/try.js": "GET", "/predict": "POST"}

    async def work() -> None:
        for path, own in methods.items():
            allowed = {own, "OPTIONS"} | ({"HEAD"} if own == "GET" else set())
            for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
                status, headers, body = await call(app, method, path)
                if method in allowed:
                    assert status == (204 if method == "OPTIONS" else 400 if own == "POST" else 200)
                else:
                    assert status == 405
                if status in (204, 405):
                    assert set(headers[b"allow"].decode().split(", ")) == allowed
                if method == "HEAD":
                    assert body == ""
                    assert int(headers[b"content-length"]) > 0
                    assert headers[b"content-type"]

    apart(asyncio.run, work())


def test_a_slash_too_many_leads_to_the_path_without_trusting_host(apps: dict[str, Any]) -> None:
    async def work() -> None:
        for path in ("/health/", "/predict/", "/docs//", "/openapi.json/"):
            status, headers, _ = await call(apps["pairs"], "GET", path)
            assert status == 307
            where = headers[b"location"].decode()
            assert where == "../" * path.count("/", 1) + path.strip("/")

    apart(asyncio.run, work())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "application/json; charset=utf-8"}, 200),
        ({"content-type": 'Application/JSON; Charset="UTF-8"'}, 200),
        ({"content-type": "application/json; charset=utf-16"}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": ""}, 415),
        ({"content-encoding": "gzip"}, 415),
        ({"content-encoding": "identity"}, 200),
    ],
)
def test_types_of_bodies(apps: dict[str, Any], headers: dict[str, str], status: int) -> None:
    async def work() -> None:
        app = apps["one text"]
        app.state.serve.batcher.start()
        for body in (b'{"text": "good"}', b'\xef\xbb\xbf{"text": "good"}\n'):
            answer = await call(app, "POST", "/predict", body, headers=headers)
            assert answer[0] == status
            check_answer(app.openapi(), "post", "/predict", answer)
        await app.state.serve.batcher.stop()

    apart(asyncio.run, work())
