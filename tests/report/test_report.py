"""The report: everything of the step is in it, nothing is loaded, and a browser runs it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import models
import pytest

import lowgrad
from lowgrad import nn
from lowgrad.errors import MissingDependencyError
from lowgrad.ir.text import graph_lines, parse
from lowgrad.report.diff import side_by_side
from lowgrad.report.layout import HEIGHT, WIDTH, place
from lowgrad.report.names import Matcher

pytest.importorskip("jinja2")
pytest.importorskip("pygments")


@pytest.fixture(scope="module")
def compiled():
    step, batch = models.MODELS["gpt"]()
    return lowgrad.compile(step).lower(*batch)


@pytest.fixture(scope="module")
def page(compiled, tmp_path_factory):
    return compiled.report(tmp_path_factory.mktemp("report") / "step.html")


def test_nothing_outside_the_file_is_named(page):
    text = page.read_text()

    assert not re.findall(r"(?:src|href)=\"(?!#)", text), "links go to places in the page"
    assert not re.findall(r"@import|url\(", text)


def test_every_kernel_buffer_and_pass_is_there(page, compiled):
    text = page.read_text()

    plain = re.sub(r"<[^>]*>", "", text)
    for kernel in compiled.kernels:
        assert f"def {kernel.name}(" in plain
    assert text.count('class="box ') == len(compiled.graph.nodes)
    assert len(re.findall(r"<rect x=\"[\d.]+\" width=\"[\d.]+\" y=", text)) == len(
        compiled.plan.buffers
    )
    for name in ("simplify", "fuse"):
        assert f"<summary><b>{name}</b>" in text
    for d in compiled.explain().refused[:3]:
        assert d.reason in text


def test_the_page_is_small_and_whole(page):
    assert page.stat().st_size < 2_000_000

    class Balanced(HTMLParser):
        void = frozenset(("meta", "input", "path", "rect", "line", "br"))

        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in self.void:
                self.open.append(tag)

        def handle_endtag(self, tag):
            if tag not in self.void:
                assert self.open.pop() == tag

    parser = Balanced()
    parser.feed(page.read_text())
    assert parser.open == []


def test_hostile_names_are_text(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4))
    net.w = lowgrad.ones(4)
    hostile = {"</script><img src=x onerror=alert(1)>": lowgrad.ones(4)}
    step = lowgrad.compile(lambda x: net(x) + hostile["</script><img src=x onerror=alert(1)>"])
    page = step.lower(lowgrad.ones(2, 4)).report(tmp_path / "step.html")

    assert "<img" not in page.read_text()
    assert "onerror=alert" in page.read_text(), "it is there, as text"


def test_recordings_and_their_reasons_are_listed(tmp_path):
    step = lowgrad.compile(lambda x: x * 2)
    step(lowgrad.ones(3))
    step(lowgrad.ones(4))
    page = step.lower(lowgrad.ones(4)).report(tmp_path / "step.html")

    assert "x (f32[3] -&gt; f32[4])" in page.read_text()


def test_an_architecture_shows_registers(tmp_path):
    pytest.importorskip("triton")
    step = lowgrad.compile(lambda x: (x @ x).relu())
    text = step.lower(lowgrad.ones(64, 64)).report(tmp_path / "a.html", arch="cuda:80").read_text()

    assert ">Registers</th>" in text
    assert "modelled on cuda:80" in text


def test_without_jinja2_the_package_is_named(compiled, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)

    with pytest.raises(MissingDependencyError, match=r"jinja2 is not installed") as error:
        compiled.report(tmp_path / "step.html")
    assert 'pip install "lowgrad[report]"' in str(error.value)


# --- In a browser ---

CLICKS = """
<script>
addEventListener("load", () => {
  const found = {};
  const theme = document.documentElement.dataset.theme;
  document.querySelector("#theme").click();
  found.theme = [theme, document.documentElement.dataset.theme];
  const box = document.querySelector(".box[data-kernels]:not([data-kernels=''])");
  box.dispatchEvent(new MouseEvent("click", {bubbles: true}));
  found.drawer = !document.querySelector("#drawer").hidden;
  found.source = document.querySelector("#drawer pre").textContent.includes("@triton.jit");
  document.querySelector("#close").click();
  found.closed = document.querySelector("#drawer").hidden;
  const filter = document.querySelector("#kernel-filter");
  filter.value = "no such kernel";
  filter.dispatchEvent(new Event("input"));
  const rows = () => [...document.querySelectorAll("#kernel-table tbody tr")];
  found.left = rows().filter((row) => !row.hidden).length;
  filter.value = "";
  filter.dispatchEvent(new Event("input"));
  const heads = document.querySelectorAll("#kernel-table th");
  heads[3].click();
  found.sorted = rows().map((row) => Number(row.cells[3].dataset.value));
  const rect = document.querySelector(".timeline rect");
  rect.dispatchEvent(new MouseEvent("mousemove", {bubbles: true, clientX: 5, clientY: 5}));
  found.tip = document.querySelector("#tip").textContent;
  found.loaded = performance.getEntriesByType("resource").length;
  document.body.append(Object.assign(document.createElement("pre"), {
    id: "found", textContent: JSON.stringify(found)}));
});
addEventListener("error", (event) => document.body.setAttribute("data-error", event.message));
</script>
"""


@pytest.fixture
def clicked(page, tmp_path):
    """What a browser says after some clicks."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium")
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", f"{CLICKS}</body>"))
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000"]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", copy.as_uri()], capture_output=True, text=True, check=False
    )
    return done.stdout


def test_a_browser_runs_it_and_clicks_work(clicked):
    assert "data-error" not in clicked.split("<main>")[0]
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', clicked)[1])
    assert sorted(found["theme"]) == ["dark", "light"]
    assert found["drawer"]
    assert found["source"]
    assert found["closed"]
    assert found["left"] == 0
    assert found["sorted"] == sorted(found["sorted"], reverse=True)
    assert "offset" in found["tip"]
    assert found["loaded"] == 0, "nothing was asked for"


# --- Parts ---


def test_boxes_stand_below_what_they_read_and_apart():
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (0, 3), (3, 4)]

    layout = place(6, edges)

    assert all(layout.places[a][1] < layout.places[b][1] for a, b in edges)
    for i, (x, y) in enumerate(layout.places):
        for u, v in layout.places[:i]:
            assert abs(x - u) >= WIDTH or abs(y - v) >= HEIGHT
        assert 0 <= x <= layout.width - WIDTH
        assert 0 <= y <= layout.height - HEIGHT


def test_neighbours_are_ordered_so_that_edges_do_not_cross():
    # Two chains, their boxes mixed up.
    layout = place(6, [(0, 3), (1, 2), (2, 5), (3, 4)])

    column = [x for x, _ in layout.places]
    assert (column[0] < column[1]) == (column[3] < column[2]) == (column[4] < column[5])


def test_values_keep_their_names_from_pass_to_pass():
    """Of a node in the middle that goes, one line differs, and that of its reader."""
    before = parse(
        "graph g(%x: f32[3]) {\n  %0 = exp %x : f32[3]\n  %1 = neg %0 : f32[3]\n"
        "  %2 = neg %1 : f32[3]\n  %3 = sin %2 : f32[3]\n  %4 = cos %3 : f32[3]\n  return %4\n}"
    )
    after = parse(
        "graph g(%x: f32[3]) {\n  %0 = exp %x : f32[3]\n  %1 = sin %0 : f32[3]\n"
        "  %2 = cos %1 : f32[3]\n  return %2\n}"
    )
    left = graph_lines(before)

    right = graph_lines(after, names=Matcher(before, left.names).names_of(after))

    assert [line.strip() for line in right.lines[1:-1]] == [
        "%0 = exp %x : f32[3]",
        "%3 = sin %0 : f32[3]",
        "%4 = cos %3 : f32[3]",
        "return %4",
    ]


def test_a_difference_shows_what_changed_and_a_little_around():
    old = [f"line {i}" for i in range(30)]
    new = [*old[:10], "other", *old[11:20], "added", *old[20:]]

    rows = list(side_by_side(old, new))

    changed = [(r.left, r.right) for r in rows if r.kind == "changed"]
    assert changed == [("line 10", "other"), ("", "added")]
    assert [r.kind for r in rows].count("gap") == 1
    assert len(rows) == 2 + 4 * 2 + 1
