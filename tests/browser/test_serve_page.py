"""The page to try a model, and the one that describes the interface: by keyboard, dark, small."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.serve import Served, server
from tests.harness.exported import save_exported


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = save_exported(tmp_path_factory.mktemp("page") / "moods", pairs=True)
    with server(folder, "--max-text-chars", "100", "--threads", "1") as running:
        yield running


@pytest.fixture(params=["light", "dark"])
def tab(browser, request: pytest.FixtureRequest) -> Iterator:
    """A tab on a small screen; anything that the console says fails the test."""
    context = browser.new_context(
        color_scheme=request.param, viewport={"width": 360, "height": 740}
    )
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()
    assert [text for text in said if "413" not in text] == []


def test_a_pair_by_keyboard(tab, served: Served) -> None:
    tab.goto(f"http://127.0.0.1:{served.port}/")
    tab.wait_for_selector("#second")
    tab.focus("#first")
    tab.keyboard.type("good film")
    tab.keyboard.press("Tab")
    tab.keyboard.type("it's <b>good</b>")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector("#answer .label")
    assert tab.inner_text("#answer .label") == "positive"
    assert tab.locator("#answer tr").count() == 2
    assert r"it'\''s <b>good" in tab.inner_text("#curl")
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    tab.fill("#first", "x" * 101)
    tab.click("#ask")
    tab.wait_for_selector("#answer .problem")
    assert "at most 100" in tab.inner_text("#answer")


def test_the_description(tab, served: Served) -> None:
    tab.goto(f"http://127.0.0.1:{served.port}/docs")
    tab.wait_for_selector(".method")
    text = tab.inner_text("main")
    for part in ("/predict", "list of [text, text]", "number by name", "413"):
        assert part in text


def test_accessibility(tab, served: Served) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    for path, ready in (("/", "#second"), ("/docs", ".method")):
        tab.goto(f"http://127.0.0.1:{served.port}{path}")
        tab.wait_for_selector(ready)
        found = axe.Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()
