"""The report page in a browser, where there is one: nothing breaks, every image loads, and a phone shows it all."""

import json
import re
import shutil
import subprocess
from types import ModuleType

import matplotlib.pyplot as plt
import pytest

from sfolib.analysis.claims import Check
from sfolib.experiments import notebook, pages, report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
window.problems = [];
addEventListener("error", event => problems.push(String(event.message || event.target.src)), true);
addEventListener("DOMContentLoaded", () => { for (const image of document.images) image.loading = "eager"; });
addEventListener("load", () => {
  const images = [...document.images];
  problems.push(...images.filter(image => !image.naturalWidth).map(image => image.src));
  const links = [...document.querySelectorAll("a[href^='#']")].filter(a => !document.getElementById(a.hash.slice(1)));
  const wide = document.documentElement.scrollWidth - innerWidth;
  parent.postMessage(JSON.stringify({images: images.length, problems, dangling: links.length, wide}), "*");
});
</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report of the project's notebooks, of which one has published two figures and a claim that is long."""
    out = tmp_path_factory.mktemp("figures")
    p = notebook.Parameters(scale="smoke", device="cpu", jobs=1, out=str(out))
    name = report.select(())[0].stem
    figures = {key: (plt.figure(figsize=(7.2, 4)), f"caption of {key}") for key in ("one", "two")}
    values = [0.1234567 * k for k in range(5)]
    claim = "a claim " + "that goes on " * 30
    sure = Check("a headline", "upper_bound", 1.0, 2.0, exact=True, figure="two", headline=True)
    ends = [(v - 0.1, v + 1.9) for v in values]
    checks = [Check(claim, "upper_bound", values, 2.0, interval=ends, figure="one", prediction="none"), sure]
    notebook.publish(ModuleType(name[3:]), p, figures, checks)
    report.write(out, [report.Outcome(name, 1.0, None)])
    return out / "index.html"


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
@pytest.mark.parametrize("width", [1200, 390])
def test_the_report_in_a_browser(page, width):
    probed = page.with_name(f"probed-{width}.html")
    # an iframe, since a headless window is never narrower than 500 pixels
    inner = page.with_name(f"inner-{width}.html")
    inner.write_text(page.read_text(encoding="utf-8").replace("<head>", "<head>" + PROBE), encoding="utf-8")
    listen = "<script>onmessage = event => document.body.textContent = event.data</script>"
    shell = f'<body>{listen}<iframe src="{inner.name}" width="{width}" height="900"></iframe></body>'
    probed.write_text(shell, encoding="utf-8")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
        "--window-size=1400,1000",
    ]
    command = [CHROMIUM, *flags, "--virtual-time-budget=10000", "--dump-dom", probed.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    found = json.loads(re.search(r"\{.*\}", done.stdout)[0])
    assert found == {"images": 2, "problems": [], "dangling": 0, "wide": found["wide"]}
    assert found["wide"] <= 0


def test_the_report_counts_verdicts_by_notebook(page):
    rows = re.findall(r"<tr><td><a href=\"#([^\"]+)\">.*?</tr>", page.read_text(encoding="utf-8"), re.S)
    assert rows[0] == report.select(())[0].stem
    assert f'<a href="#{rows[0]}-claim-2">a headline</a>' in page.read_text(encoding="utf-8")
    assert '<td class="n" data-label="reproduced">1</td>' in page.read_text(encoding="utf-8")


def test_the_page_of_a_report_that_is_not_complete_says_so_and_loads_itself_again(page):
    report.write(page.parent, [], ["02_growth_rates"])
    assert "Still running: 02_growth_rates" in page.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' in page.read_text(encoding="utf-8")
    report.write(page.parent, [])
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")
    gallery = (page.parent / "gallery.html").read_text(encoding="utf-8")
    assert gallery.count("python -m sfolib figures 00 --scale smoke</code>") == 2


def test_words_are_rendered_and_stay_text():
    assert report.marked("[`08_a`](08_a.ipynb) <b> $b^2=\\eta_{nt}$ `x`") == (
        f'<a href="#08_a">08_a</a> &lt;b&gt; {pages.mathml("b^2=" + chr(92) + "eta_{nt}")} <code>x</code>'
    )


def test_headlines_come_first_and_what_is_undecided_says_how_much_of_it(page):
    text = page.read_text(encoding="utf-8")
    assert text.index("What was found") < text.index("a headline") < text.index("<th>notebook</th>")
    assert "undecided (1 of 5 hold)" in text
    assert "(a finding: nothing predicted it)" in text
    assert "1 claims are judged by 95 % intervals: if all were true, at most 0.1 of them" in text
