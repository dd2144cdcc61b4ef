"""The written report: formats that agree, a page that needs nothing, files replaced as a whole."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from contextlib import nullcontext
from html.parser import HTMLParser

import pandas as pd
import pytest

from kdlora.errors import InputError, StoreError
from kdlora.evidence.gains import describe as gather
from kdlora.report import build
from kdlora.report.content.methods import METHODS, OWN_METHODS
from kdlora.report.content.parts import ReportInputs
from kdlora.report.render import html, raster
from kdlora.report.render.colours import COLOURS
from kdlora.report.render.html import render_html
from kdlora.report.render.latex import render_latex
from kdlora.report.render.markdown import render_markdown
from kdlora.report.render.svg import draw
from kdlora.report.words import DAGGER
from tests.harness.hostile import HOSTILE, obeyed
from tests.harness.reports import report_of
from tests.harness.studies import blank, make_frame, put

# A number that is no part of a name, an id or a version.
NUMBER = re.compile(r"(?<![\w.\-])[+\N{MINUS SIGN}]?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
# Numbers that are no measurements: the citation of the method, the scale of points, the confidence
# of intervals, the power of the smallest difference, the bins of confidence, the tasks that a claim
# on others needs, the correlation that is allowed for between the tasks of one seed.
CONSTANTS = {"2015", "100", "95", "90", "80", "10", "6", "0.15"}


class Page(HTMLParser):
    """The text of a page as a reader sees it, its tags, and the headings in order."""

    SILENT = ("script", "style", "svg", "title")

    def __init__(self, html):
        super().__init__()
        self.text, self.tags, self.headings, self.deep, self.ids = [], [], [], 0, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.deep += tag in self.SILENT
        if not self.deep and dict(attrs).get("id"):
            self.ids.append(dict(attrs)["id"])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag):
        self.deep -= tag in self.SILENT

    def handle_data(self, data):
        if not self.deep:
            self.text.append(data)


def numbers(text):
    return NUMBER.findall(text)


def run_counts(frame):
    """How many runs captions may speak of: all trained ones, and those drawn with a line."""
    done = frame[(frame["status"] == "done") & (frame["role"] != "baseline")]
    points = done[done["metric"] != "rmse"].dropna(subset=["score"])
    return {str(part["run_id"].nunique()) for part in (done, points)}


def table_numbers(tables):
    cells = (cell.shown for table in tables for row in table.rows for cell in row)
    headers = (column.header for table in tables for column in table.columns)
    return {n for text in (*cells, *headers) for n in numbers(text)}


def plain_latex(path):
    """The text of a table as a reader of the PDF sees it."""
    text = path.read_text(encoding="utf-8")
    noted = re.compile(r"\\par\\smallskip\\footnotesize Note (\d+): (.*)\.\n")
    told = dict(noted.findall(text))  # what stands below a number, where that has no room
    text = re.sub(r"\(note (\d+)\)", lambda m: f"({told[m[1]]})", noted.sub("", text))
    text = re.sub(r">\{\\ragged(left|right)\\arraybackslash\}p\{[\d.]+pt\}", "l", text)
    text = re.sub(r"\\(begin|end|label)\{[^}]*\}(\{[lr]+\}|\[htbp\])?", " ", text)
    text = re.sub(r"%.*?\n", "\n", re.sub(r"\\%", "per cent", text))
    text = re.sub(r"\\(resizebox|setlength)\{[^}]*\}\{[^}]*\}", " ", text)
    text = text.replace(r"\allowbreak{}", "")
    text = text.replace(r"\ensuremath{-}", "\N{MINUS SIGN}").replace(r"\&", " ").replace("~", " ")
    text = re.sub(r"\\text(bf|superscript)\{", "{", text)
    return re.sub(r"\\[a-zA-Z]+|[{}]|\\\\", "", text.replace("&", " "))


def test_latex_has_the_numbers_of_the_table(written):
    files, report, _ = written
    paths = {path.stem: path for path in files.tables if path.suffix == ".tex"}
    tables = list(report.tables())
    assert tables
    for table in tables:
        shown = [cell.shown for row in table.shown_rows for cell in row]
        shown += [column.header for column in table.columns]
        shown += [table.title, table.caption, *table.shown_notes]
        wanted = Counter(n for text in shown for n in numbers(text))
        found = Counter(numbers(plain_latex(paths[table.key])))
        if r"\endhead" in paths[table.key].read_text():  # a long table's head is on every page
            found = Counter(dict.fromkeys(found, 1)) & Counter(dict.fromkeys(wanted, 1))
            wanted = Counter(dict.fromkeys(wanted, 1))
        assert found == wanted, table.key


@pytest.fixture(scope="module", params=["one_task", "troubled"])
def written(request, tmp_path_factory, pictures, made):
    """A report on disk, and the parts it was rendered from."""
    frame = request.getfixturevalue(request.param)
    report = made(request.param)
    with pictures():
        files = build.save_report(report, tmp_path_factory.mktemp(request.param))
    return files, report, frame


def test_every_number_shown_is_in_a_table(written):
    files, report, frame = written
    known = table_numbers(report.tables()) | CONSTANTS | run_counts(frame)
    known |= {n for s in report.sections for b in s.blocks for n in numbers(getattr(b, "text", ""))}
    page = Page(files.html.read_text(encoding="utf-8"))
    shown = [n for text in page.text for n in numbers(text)]
    assert len(shown) > 300
    assert set(shown) <= known
    alts = [attrs["aria-label"] for _, attrs in page.tags if attrs.get("role") == "img"]
    assert alts
    assert {n for alt in alts for n in numbers(alt)} <= known
    markdown = files.markdown.read_text(encoding="utf-8")
    assert set(numbers(re.sub(r"\]\(figures/.*?\)", "]", markdown))) <= known
    latex = [plain_latex(path) for path in files.tables if path.suffix == ".tex"]
    shown_in_latex = {n for text in latex for n in numbers(text)}
    assert len(shown_in_latex) > 100
    assert shown_in_latex <= known


def test_the_two_formats_show_the_same_numbers_as_often(written):
    files, _, _ = written
    page = Page(files.html.read_text(encoding="utf-8"))
    markdown = files.markdown.read_text(encoding="utf-8")
    without_pictures = re.sub(r"!\[.*?\]\(figures/.*?\)", "", markdown)
    assert Counter(n for text in page.text for n in numbers(text)) == Counter(
        numbers(without_pictures)
    )


def test_every_number_of_a_sentence_is_in_a_table_it_names(written):
    _, report, _ = written
    tables = {table.key: table for table in report.tables()}
    counted = 0
    for section in report.sections:
        for finding in section.findings:
            named = [tables[key] for key in finding.tables if key in tables]
            found = set(numbers(finding.text))
            assert found <= table_numbers(named) | {"100"}, finding.topic
            counted += len(found)
    assert counted > 20


def test_every_headline_number_is_in_the_summary_or_effects(written):
    _, report, _ = written
    known = table_numbers(t for t in report.tables() if t.key in ("summary", "effects"))
    tiles = [tile for section in report.sections for tile in section.tiles]
    assert len(tiles) == 4
    assert {n for tile in tiles for n in numbers(tile.text + " " + tile.label)} <= known


def test_a_headline_is_not_made_of_a_broken_run(troubled, one_task, made):
    tile = made("troubled").sections[0].tiles[-1]
    gain = gather(troubled).overall("minilm-l6--minilm-l3", "distillation")[0]
    assert tile.text == f"+{100 * gain.unflagged:.1f}"
    assert "flagged pairs left out" in tile.label
    broken = put(one_task, {"arm": "student/lora"}, flags=("nan",))
    assert report_of(broken).sections[0].tiles[-1].text.endswith(DAGGER)
    assert "flagged" not in made("one_task").sections[0].tiles[-1].label


def test_tables_on_disk_are_the_tables_shown(written):
    files, report, _ = written
    csvs = [path for path in files.tables if path.suffix == ".csv"]
    assert [path.stem for path in csvs] == [table.key for table in report.tables()]
    assert {table.key for table in report.tables()} <= set(build.FILES)
    for path, table in zip(csvs, report.tables(), strict=True):
        with path.open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        assert len(rows) == len(table.rows)
        assert "\N{EN DASH}" not in {value for row in rows for value in row.values()}


def test_the_csv_of_scores_agrees_with_the_frame(written):
    files, _, frame = written
    saved = pd.read_csv(next(path for path in files.tables if path.name == "runs.csv"))
    merged = saved.merge(frame.drop_duplicates("run_id"), on="run_id", suffixes=("", "_true"))
    done = merged[merged["status"] == "done"].dropna(subset=["score"])
    assert len(done) >= 12
    assert done["score"].tolist() == pytest.approx(done["score_true"].astype(float).tolist())


def test_figures_are_pictures(written):
    files, report, _ = written
    assert {path.stem for path in files.figures} == {figure.key for figure in report.figures()}
    assert {path.stem for path in files.figures} <= set(build.FILES)
    for path in files.figures:
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            start = {".png": b"\x89PNG", ".pdf": b"%PDF"}[path.suffix]
            assert path.read_bytes().startswith(start)


def test_the_page_asks_for_nothing_from_outside(written):
    files, _, _ = written
    html = files.html.read_text(encoding="utf-8")
    page = Page(html)
    for tag, attrs in page.tags:
        assert "src" not in attrs, tag
        assert tag not in ("link", "iframe", "img", "object", "base")
        for name in ("href", "xlink:href", "action"):
            assert attrs.get(name, "#").startswith("#"), (tag, attrs)
    style = re.search(r"<style>(.*?)</style>", html, re.S)[1]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    assert files.html.stat().st_size < 3_000_000


def test_the_page_is_well_made(written):
    files, report, _ = written
    html = files.html.read_text(encoding="utf-8")
    page = Page(html)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    steps = zip(page.headings, page.headings[1:], strict=False)
    assert all(after - before <= 1 for before, after in steps)
    assert len(page.ids) == len(set(page.ids))
    links = {a["href"][1:] for t, a in page.tags if t == "a"}
    assert links <= set(page.ids)
    assert [t for t, _ in page.tags].count("table") == len(list(report.tables()))
    assert all(a.get("scope") in ("col", "row") for t, a in page.tags if t == "th")
    assert ("html", {"lang": "en"}) in page.tags


def test_the_page_is_light_and_dark(written):
    html = written[0].html.read_text(encoding="utf-8")
    body = html.partition("</style>")[2]
    # Charts speak in variables: a colour of the light theme in them would stay on a dark page.
    drawings = "".join(re.findall(r"<svg.*?</svg>", body, re.S))
    specs = re.search(r'<script type="application/json" id="specs">(.*?)</script>', body, re.S)[1]
    for name, (light, dark) in COLOURS.items():
        assert light not in drawings + specs
        assert html.count(f"--{name}: {light};") == 1
        assert html.count(f"--{name}: {dark};") == 1
    assert "var(--kd)" in drawings
    assert "var(--kd)" in specs
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_reading_order(made):
    titles = [section.title for section in made("one_task").sections]
    assert titles == ["The answer", "Can it be trusted?", "Quality", "Efficiency", "Trade-off",
                      "Statistics", "Task by task", "Where it is wrong", "Methods",
                      "Provenance and rerun"]  # fmt: skip


def test_the_same_records_make_the_same_report(one_task, tmp_path):
    """Also in another process, where strings hash differently."""
    names = ("nan", "never_improved", "constant_predictions", "loss_not_falling")
    frame = put(one_task, {"arm": "student/lora"}, flags=names, flag_details=names)
    here = render_markdown(report_of(frame))
    frame.to_pickle(tmp_path / "frame.pickle")
    code = (
        "import sys, pandas as pd; from tests.harness.reports import report_of;"
        "from kdlora.report.render.markdown import render_markdown;"
        f"frame = pd.read_pickle({str(tmp_path / 'frame.pickle')!r});"
        "sys.stdout.buffer.write(render_markdown(report_of(frame)).encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True,
        env={"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.stdout.decode() == here


def test_a_later_report_replaces_the_earlier_one(made, tmp_path, monkeypatch):
    def empty_pictures(scales):
        for svg in scales:
            svg.with_suffix(".png").touch()
            svg.with_suffix(".pdf").touch()
        return nullcontext()

    monkeypatch.setattr(raster, "beside", empty_pictures)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "mine.csv").write_text("a\n1\n")
    before = build.save_report(made("troubled"), tmp_path)
    after = build.save_report(made("one_task"), tmp_path)
    assert {p.stem for p in before.tables} >= {"flags", "unfinished"}
    left = {path.name for path in (tmp_path / "tables").iterdir()}
    assert left == {path.name for path in after.tables} | {"mine.csv"}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {p.name for p in after.figures}
    assert after.markdown.read_text(encoding="utf-8") == render_markdown(made("one_task"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_names_cannot_break_the_page_or_the_tables():
    detail = "</script><script>alert(1)</script> | *x*\nsecond line"
    frame = make_frame(seeds=(1,))
    frame = put(frame, {"arm": "student/lora"}, flags=("odd",), flag_details=(detail,))
    frame["task"] = "a|b <img src=x>"
    frame["run_id"] = [f"run-{i}</script>" for i in range(len(frame))]
    report = report_of(frame, title="<b>T</b>")
    html = render_html(report)
    specs = re.search(r'id="specs">(.*?)</script>', html, re.S)[1]
    assert "run-3</script>" in str(json.loads(specs))
    page = Page(html)
    assert "img" not in [tag for tag, _ in page.tags]
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert "<b>T</b>" in "".join(page.text)
    for line in render_markdown(report).splitlines():
        assert "<script>" not in line.replace("\\<", "")
        if line.startswith("| run-"):
            bars = len(re.findall(r"(?<!\\)\|", line))
            assert bars in {len(table.columns) + 1 for table in report.tables()}


@pytest.fixture(scope="module")
def told(one_task):
    """A report that was told more than records tell."""
    note = "Rows 1 to 5 were repaired by hand."
    return report_of(one_task, rerun="kdlora run mine.yaml", notes=(note,))


def test_the_study_is_shown_without_the_folder_it_lay_in(told):
    text = render_markdown(told)
    assert "name: synthetic" in text
    assert "/home/someone" not in text + render_html(told)
    assert "kdlora run mine.yaml" in text


def test_notes_join_the_methods(told, one_task):
    methods = next(s for s in told.sections if s.key == "methods")
    assert set(methods.intro) == {*METHODS, *OWN_METHODS, "Rows 1 to 5 were repaired by hand."}
    assert methods.intro[-1] == "Rows 1 to 5 were repaired by hand."
    bare = report_of(one_task, spec={})  # imported results came about elsewhere
    assert not set(OWN_METHODS) & {text for s in bare.sections for text in s.intro}


def test_a_study_without_results_still_has_a_report(tmp_path):
    frame = make_frame()
    for arm in set(frame["arm"]):
        frame = blank(frame, {"arm": arm}, "missing")
    files = build.write_report(frame, tmp_path, ReportInputs("Not begun"))
    text = files.markdown.read_text(encoding="utf-8")
    assert "0 of 12 planned runs are done; 12 missing." in text
    assert "No task and seed has a score of every trained model yet" in text
    assert files.figures == ()
    assert "vegaEmbed" not in files.html.read_text(encoding="utf-8")


def test_only_baselines(tmp_path):
    frame = make_frame()
    files = build.write_report(frame[frame["role"] == "baseline"], tmp_path, ReportInputs("B"))
    assert "Baseline, TF-IDF" in files.markdown.read_text(encoding="utf-8")


def test_bad_input_is_one_message_and_nothing_is_written(one_task, made, tmp_path):
    with pytest.raises(InputError, match="the frame has no column 'arm'"):
        build.write_report(one_task[["task"]], tmp_path / "out", ReportInputs("x"))
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write the report to"):
        build.save_report(made("one_task"), tmp_path / "file")


def test_a_full_disk_leaves_the_earlier_page(made, tmp_path, monkeypatch):
    build.save_report(made("troubled"), tmp_path)
    before = (tmp_path / "report.html").read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(StoreError):
        build.save_report(made("one_task"), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_no_character_of_a_name_is_obeyed_by_what_shows_it():
    """Of pages and tables as of a terminal; drawings stay XML, which holds no such characters."""
    frame = make_frame(pair=f"pair {HOSTILE}").assign(encoder=f"encoder {HOSTILE}")
    arm = frame["arm"] == "student/lora"
    frame.loc[arm, "arm"] = f"student/lora[{HOSTILE.replace('[', '(')}]"
    frame = blank(frame, {"arm": "student/fft", "seed": 43}, "failed", f"OSError: {HOSTILE}")
    report = report_of(frame, title=HOSTILE)
    drawings = {p.key: draw(p) for figure in report.figures() for p in figure.panels}
    page = render_html(report, drawings=drawings).replace(html._vega(), "")
    for shown in (page, render_markdown(report), *map(render_latex, report.tables())):
        assert not obeyed(shown)
    for svg in drawings.values():
        assert not obeyed(svg)
        ElementTree.fromstring(svg)
    assert r"\u001b[2J" in page
    assert "[red]arm[/red]" in page
