"""The documentation builds as a site whose links all lead somewhere, and needs no network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# what a page would fetch by itself
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=[\"']?(https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="the documentation's site: pip install 'kdlora[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_built_and_every_link_leads_somewhere(site: Path) -> None:
    """`--strict`: a link or an anchor that is not there fails the build."""
    pages = list(DOCS.glob("*.md"))
    assert pages
    for page in pages:
        assert (site / f"{page.stem}.html").is_file(), page.name


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert pages
    assert styles
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert FETCHED.search(text.replace('rel="canonical"', "")) is None, page.name
    for style in styles:
        assert "@import" not in style.read_text(encoding="utf-8"), style.name


def test_the_reference_has_every_public_name(site: Path) -> None:
    import kdlora

    text = (site / "api.html").read_text(encoding="utf-8")
    functions = set(kdlora.__all__) - {"Study"}
    assert [name for name in sorted(functions) if f'id="kdlora.{name}"' not in text
            and not re.search(rf'id="kdlora\.[\w.]+\.{name}"', text)] == []  # fmt: skip


def test_every_page_has_its_place_in_the_navigation() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    named = set(re.findall(r"[\w/-]+\.md", str(settings["nav"])))
    assert {path.name for path in DOCS.glob("*.md")} <= named
    assert all((DOCS / name).is_file() for name in named)
