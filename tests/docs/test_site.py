"""The documentation site: its pages, its build without a warning, and that it loads nothing from a network."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from aihf_control import methods

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADING = {"script": "src", "img": "src", "link": "href", "source": "src", "iframe": "src", "use": "href"}


def load_script(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_method_has_a_page_with_a_formula():
    pages = {page.stem: page.read_text() for page in (DOCS / "methods").glob("*.md")}
    assert pages.keys() == set(methods.names())
    for name, text in pages.items():
        assert f"```{{method-page}} {name}\n" in text and text.count("$$") >= 2, name


def test_the_index_lists_every_page():
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md", "index.md"}
    assert set(re.findall(r"^- \[(\w+\.md)\]\(\1\): ", (DOCS / "README.md").read_text(), re.MULTILINE)) == pages


def test_the_diagrams_are_those_of_their_script(tmp_path):
    diagrams = load_script(DOCS / "make_diagrams.py")
    diagrams.main(tmp_path)
    for name in diagrams.DIAGRAMS:
        assert (DOCS / f"images/{name}.svg").read_text() == (tmp_path / f"{name}.svg").read_text(), name


REGIME = """
[[claim]]
text = "X is better."
better = "dpo"
than = "bc"
where = { error = 0.0 }
[[claim]]
text = "X is as good."
better = "dpo"
than = "rlhf"
kind = "as good"
"""
VERDICTS = """experiment,claim,better,than,verdict,P,P low,P high,gain,gain low,gain high
regimes/ipo,X is better.,dpo,bc,does not hold,0.1,0.0,0.2,-0.5,-0.6,-0.4
regimes/dpo,X is better.,dpo,bc,holds,0.9,0.8,1.0,0.5,0.4,0.6
"""


def test_pages_of_methods_show_claims_and_verdicts(tmp_path, monkeypatch):
    parts = load_script(DOCS / "extensions/parts.py")
    monkeypatch.setattr(parts, "ROOT", tmp_path)
    for path, text in (("experiments/regimes/dpo.toml", REGIME), ("results/regimes/claims.csv", VERDICTS)):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    rows = parts.claims_of("dpo")[-1].splitlines()[2:]
    assert rows == [
        "| X is better. | `dpo` better than `bc`, error 0.0 | holds | 0.90 [0.80, 1.00] | 0.50 [0.40, 0.60] | - |",
        "| X is as good. | `dpo` as good as `rlhf` | not run yet | - | - | - |",
    ]
    assert parts.claims_of("aihf") == []
    listed = parts.method_list("")
    assert re.search(r"^\| \[`dpo`\].* \| holds, not run yet \|$", listed, re.MULTILINE)
    assert re.search(r"^\| \[`aihf`\].* \| - \|$", listed, re.MULTILINE)


class Loaded(HTMLParser):
    """Lists what a page loads."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found += [value for key, value in attrs if value and LOADING.get(tag) == key]


def from_network(address: str) -> bool:
    return address.startswith(("http:", "https:", "//"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "-W", "-q", "-d", str(out / "trees"), str(DOCS), str(out / "html")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out / "html"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_a_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(methods.names())
    for page in pages:
        loaded = Loaded(page.read_text()).found
        assert loaded and not [address for address in loaded if from_network(address)], page
    for sheet in (site / "_static").rglob("*.css"):
        addresses = re.findall(r"(?:url\(|@import )[\"']?([^\"')]+)", sheet.read_text())
        assert not [address for address in addresses if from_network(address)], sheet


@pytest.mark.slow
def test_pages_of_methods_show_what_the_code_says(site):
    page = (site / "methods/dpo.html").read_text()
    assert "<math" in page and "$$" not in page
    assert "--direct.*" in page and "descend  -log sigmoid(h(win) - h(lose))" in page.replace("&gt;", ">")
    assert "aihf_control.train" in (site / "api.html").read_text()
