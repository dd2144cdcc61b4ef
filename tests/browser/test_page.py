"""The page as readers have it: offline, by mouse and keyboard, dark, on a phone, on paper."""

from __future__ import annotations

import csv
import io

import pytest

from tests.browser.conftest import study

VIEWPORT = {"width": 1200, "height": 900}
DARK_PAGE, LIGHT_PAGE = "rgb(18, 21, 24)", "rgb(246, 247, 248)"


class Tab:
    """A tab with the page open, the network off, and everything that the console said."""

    def __init__(self, browser, file, **options):
        # A page that still glides under the mouse loses a click: the button comes up elsewhere.
        options = {"viewport": VIEWPORT, "reduced_motion": "reduce"} | options
        self.context = browser.new_context(offline=True, **options)
        self.said, self.asked = [], []
        self.context.set_default_timeout(8000)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.context.close()

    def scroll_through(self):
        """Open everything and see it once, so that every chart is live."""
        self.open_all()
        height = self.page.evaluate("document.body.scrollHeight")
        for y in range(0, height, 1000):  # a chart lives from 300 px before it is in sight
            self.page.evaluate(f"window.scrollTo(0, {y})")
            self.page.wait_for_timeout(40)
        self.page.wait_for_function(
            "document.querySelectorAll('[data-chart]:not([data-live]), "
            "[data-steered]:not([data-live])').length === 0"
        )
        self.page.evaluate("window.scrollTo(0, 0)")

    def open_all(self):
        self.page.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")


@pytest.fixture(scope="module")
def tab(browser, page_file):
    with Tab(browser, page_file) as opened:
        opened.scroll_through()
        yield opened


def column(page, table, place):
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not(.filtered):not(.paged)",
        f"(rows) => rows.map((row) => row.cells[{place}].dataset.v)",
    )


def test_it_renders_offline_without_a_word_in_the_console(tab):
    assert tab.said == []
    assert [url for url in tab.asked if not url.startswith("file:")] == []
    assert tab.page.locator("[data-live]").count() == tab.page.locator(".chart").count() > 10


def test_a_table_sorts_by_value_and_back(tab):
    page = tab.page
    before = column(page, "runs", 6)
    button = page.locator("#runs thead th").nth(6).locator("button")
    button.click()
    found = [float(v) for v in column(page, "runs", 6) if v]
    assert found == sorted(found, reverse=True)
    assert page.locator("#runs thead th").nth(6).get_attribute("aria-sort") == "descending"
    button.focus()
    page.keyboard.press("Enter")
    found = [float(v) for v in column(page, "runs", 6) if v]
    assert found == sorted(found)
    button.click()
    assert column(page, "runs", 6) == before


def test_a_table_filters(tab):
    page = tab.page
    box = page.get_by_label("Filter rows of Every run")
    box.fill("never_improved")
    assert len(column(page, "runs", 0)) == 2  # both rows of one place: one a pair
    assert "2 of" in page.locator("#runs .tools [role=status]").inner_text()
    box.fill("cola distilbert kd-lora")
    assert {run.split("-")[0] for run in column(page, "runs", 0)} == {"bert"}
    box.fill("")
    assert page.locator("#runs .tools [role=status]").inner_text() == "rows 1 to 50 of 72 rows"


def test_a_table_is_read_in_pages(tab):
    page = tab.page
    first = column(page, "runs", 0)
    assert len(first) == 50
    page.locator("#runs .pager button", has_text="Next").click()
    second = column(page, "runs", 0)
    assert second
    assert not set(first) & set(second)
    page.locator("#runs .pager button", has_text="Back").click()
    assert column(page, "runs", 0) == first


def test_a_table_is_copied_as_csv(tab):
    page = tab.page
    button = page.get_by_label("Copy The models at a glance as CSV")
    button.click()
    page.wait_for_function("document.querySelector('#summary .tools button').dataset.csv")
    rows = list(csv.reader(io.StringIO(button.get_attribute("data-csv"))))
    assert rows[0][:2] == ["Pair", "Model"]
    assert len(rows) - 1 == page.locator("#summary tbody tr").count()
    assert {len(row) for row in rows} == {len(rows[0])}
    assert all(row[2] == "" or float(row[2]) < 1 for row in rows[1:])


def marks(page):
    return page.locator("#figure-explorer .mark-symbol path")


def test_the_axes_of_the_explorer_change(tab):
    page = tab.page
    titles = page.locator("#figure-explorer .role-axis-title text")
    assert set(titles.all_text_contents()) == {"Size of the merged model, MB", "Score, points"}
    page.get_by_label("Across", exact=True).select_option("trainable_params")
    page.wait_for_function(
        "[...document.querySelectorAll('#figure-explorer .role-axis-title text')]"
        ".some((t) => t.textContent === 'Trained parameters')"
    )
    page.get_by_label("Up", exact=True).select_option("latency_p50_ms")
    page.wait_for_function(
        "[...document.querySelectorAll('#figure-explorer .role-axis-title text')]"
        ".some((t) => t.textContent === 'Median latency of one text, ms')"
    )
    page.get_by_label("Across", exact=True).select_option("size_mb")
    page.get_by_label("Up", exact=True).select_option("score")
    assert tab.said == []


def test_the_tooltip_names_the_right_run(tab):
    """One run has a size and a score of its own: its mark alone is left, and hovering names it."""
    page = tab.page
    frame = study()
    (run,) = frame.loc[(frame["size_mb"] == 71.25) & (frame["pair"] == "bert--distilbert"),
                       "run_id"]  # fmt: skip
    for label, value in (("Task", "rte"), ("Model", "student/lora"), ("Pair", "bert--distilbert"),
                         ("Marks", "runs")):  # fmt: skip
        page.get_by_label(label, exact=True).select_option(value)
    page.wait_for_function(
        "document.querySelectorAll('#figure-explorer .mark-symbol path').length === 3"
    )
    page.locator("#figure-explorer").scroll_into_view_if_needed()
    found = []
    for i in range(marks(page).count()):
        page.mouse.move(2, 2)
        marks(page).nth(i).hover(force=True)
        page.wait_for_selector("#vg-tooltip-element.visible")
        found.append(page.locator("#vg-tooltip-element").inner_text())
    (own,) = (text for text in found if run in text)
    assert "71.2 (Size of the merged model, MB)" in own.replace("71.3", "71.2")
    assert "65.4 (Score, points)" in own
    assert "rte" in own
    for label in ("Task", "Model", "Pair"):
        page.get_by_label(label, exact=True).select_option("")


def test_the_set_that_nobody_beats_is_said(tab):
    page = tab.page
    page.get_by_label("Pair", exact=True).select_option("bert--distilbert")
    said = page.locator("#figure-explorer .said")
    assert "teacher FFT" in said.inner_text()
    assert "student FFT" in said.inner_text()
    page.get_by_label("Pair", exact=True).select_option("")


def test_the_page_is_dark_where_the_reader_wants_it_dark(browser, page_file):
    for scheme, colour in (("dark", DARK_PAGE), ("light", LIGHT_PAGE)):
        with Tab(browser, page_file, color_scheme=scheme) as tab:
            style = "getComputedStyle(document.body).backgroundColor"
            assert tab.page.evaluate(style) == colour
            drawn = tab.page.locator(".chart svg text").first
            ink = drawn.evaluate("(t) => getComputedStyle(t).fill")
            light = sum(map(int, ink[4:-1].split(","))) > 3 * 128
            assert light == (scheme == "dark")


def test_a_phone_scrolls_tables_not_the_page(tab):
    tab.page.set_viewport_size({"width": 390, "height": 800})
    wide = tab.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390
    assert tab.page.locator(".scroll").first.evaluate("(s) => s.scrollWidth > s.clientWidth")
    tab.page.set_viewport_size(VIEWPORT)


def test_the_first_screen_is_open_and_a_link_opens_what_is_folded(browser, page_file):
    with Tab(browser, page_file) as tab:
        page = tab.page
        assert page.locator("details.section[open]").count() == 0
        assert not page.locator("#h-comparisons").is_visible()
        page.locator("#section-answer a[href='#comparisons']").first.click()
        page.locator("#h-comparisons").wait_for(state="visible")
        assert page.locator("details.section[open]").count() == 1
        page.locator("nav a", has_text="Methods").click()
        page.locator("#section-methods p").first.wait_for(state="visible")
        page.get_by_role("button", name="Open all").click()
        assert page.locator("details.section:not([open])").count() == 0
        page.get_by_role("button", name="Close all").click()
        assert page.locator("details.section[open]").count() == 0
        assert tab.said == []


@pytest.mark.parametrize("width", [360, 1280])
def test_the_navigation_is_not_cut(browser, page_file, width):
    """On a desk all sections are in sight; on a phone the bar scrolls."""
    with Tab(browser, page_file, viewport={"width": width, "height": 800}) as tab:
        shown = tab.page.locator("nav ul").evaluate("(n) => [n.scrollWidth, n.clientWidth]")
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
        if width > 1000:
            assert shown[0] <= shown[1]


def test_on_paper_everything_is_open_and_tools_are_gone(browser, page_file):
    with Tab(browser, page_file) as tab:
        page = tab.page
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert page.locator("details:not([open])").count() == 0
        assert not page.locator(".tools").first.is_visible()
        assert not page.locator("nav").is_visible()
        assert page.locator("#runs tbody tr").last.is_visible()  # the second page of the table
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgba(0, 0, 0, 0)"
        assert len(page.pdf()) > 20_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(tab, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe: see [dev]")
    tab.page.emulate_media(color_scheme=scheme)
    # The page's own policy forbids foreign scripts; axe comes in by the debugger. By colours only
    # contrasts differ.
    options = {"resultTypes": ["violations"]}
    options |= {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
    alike = {"exclude": ["tbody tr:nth-child(n + 9)"]}  # rows of a table differ in their numbers
    results = axe.Axe().run(tab.page, context=alike, options=options)
    assert results.response["passes"]
    serious = [
        f"{v['id']}: {v['nodes'][0]['html'][:160]}"
        for v in results.response["violations"]
        if v["impact"] in ("serious", "critical")
    ]
    assert serious == []


def test_without_scripts_everything_is_there(browser, page_file):
    with Tab(browser, page_file, java_script_enabled=False) as tab:
        assert tab.page.locator(".chart svg").count() > 10
        assert tab.page.locator("#runs tbody tr").count() == 72
