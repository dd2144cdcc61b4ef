"""The page of all figures: what the command would print, and every ratio that speed.md quotes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import figures

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results" / "benchmarks"


def test_the_page_is_what_the_command_prints() -> None:
    told = "run `python -m benchmarks page`"
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == figures.page(FOLDER), told


def test_every_kind_of_processor_and_every_peer_is_on_it() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    paths = list(FOLDER.rglob("speed.json"))
    assert paths
    for path in paths:
        where = path.parent.relative_to(FOLDER).as_posix()
        link = "(speed.md)" if where == "." else f"({where}/speed.md)"
        for group in json.loads(path.read_text(encoding="utf-8"))["measures"]:
            rows = [r for r in text.splitlines() if group["title"] in r and link in r]
            for peer, found in group["ratios"].items():
                if peer.startswith(("(", "pipeline")):
                    (row,) = [r for r in rows if f"| {peer} |" in r]
                    assert f"{found['median']:.1f} x" in row


def test_a_folder_with_one_result_makes_a_page_of_it(tmp_path: Path) -> None:
    shares = {"products of the layers": 0.5, "GELU": 0.3, "optimizer and clipping": 0.12}
    about = {"instructions": ["avx2"], "precision": "fp32"}
    (tmp_path / "plain").mkdir()
    found = {"machine": about, "shares": {"bert-base": shares}}
    (tmp_path / "plain" / "step.json").write_text(json.dumps(found))
    (tmp_path / "readme").write_text("# nothing printed here")
    speeds = [{"what": "distilbert, LoRA", "ours": 4000.0, "trainer": 2500.0, "settings": ""}]
    (tmp_path / "gpu.json").write_text(json.dumps({"device": "a card", "speeds": speeds}))
    text = figures.page(tmp_path, tmp_path / "readme")
    assert "| distilbert, LoRA | [a card](gpu.md) | 4,000 | 2,500 | 1.6 x |" in text
    assert "[AVX2, fp32](plain/step.md)" in text
    assert "products of the layers 50%, GELU 30%, optimizer and clipping 12% | 12%" in text
    assert "## Serving" not in text
    assert "## The demo" not in text
