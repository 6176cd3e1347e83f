"""Executed notebooks as pages: nothing comes from the network, and formulas are what a browser renders by itself."""

import html
import json
import re

import nbformat
import pytest

from sfolib.experiments import pages
from sfolib.experiments.project import root

NOTEBOOKS = sorted((root() / "notebooks").glob("*.ipynb"))


def wrong(mathml):
    """What Chromium would not show as it is meant: macros that are not known, variants that MathML Core lacks."""
    return re.findall(r"\\\\\w*|mathvariant=\"(?!normal)[^\"]*\"|<merror", mathml)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_formula_of_a_notebook_is_mathml(path):
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            for block, inline in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", cell.source, re.S):
                assert not wrong(pages.mathml(block or inline)), block or inline


def test_every_formula_of_a_claim_is_mathml():
    for check in json.loads((root() / "figures/reference/checks.json").read_text(encoding="utf-8")):
        text = pages.with_formulas(check["claim"] + " " + check["explanation"])
        assert "$" not in text
        assert not wrong(text)


def test_letters_and_signs_are_those_that_browsers_know():
    for tex, letter in ((r"\mathbb E", "𝔼"), (r"\mathbb{R}", "ℝ"), (r"\mathcal N", "𝒩")):
        assert f"<mi>{letter}</mi>" in html.unescape(pages.mathml(tex))
    assert "<mi>ln</mi><mspace" in pages.mathml(r"\ln x")
    assert "<mi>ln</mi><mo" in pages.mathml(r"\ln(x)")
    with pytest.raises(ValueError, match=r"a_b_c"):
        pages.mathml("a_b_c")


def test_a_page_needs_no_network(tmp_path):
    table = "<table><tr><td>constant $b=16$</td></tr></table><p>$5 is none</p><p>nor $a_b_c$</p>"
    outputs = [
        nbformat.v4.new_output("display_data", {"text/html": table, "text/plain": "table"}),
        nbformat.v4.new_output("display_data", {"text/markdown": r"below $\varepsilon<1$"}),
        nbformat.v4.new_output("stream", text="in $HOME and $PATH"),
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# Title of $b$\n\nso $a < b$ and `$x$`\n\n$$\\frac{1}{K}\\sum_t b_t$$"),
        nbformat.v4.new_code_cell("'$y$'", outputs=outputs),
    ]
    path = tmp_path / "executed.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    pages.write(path)
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    assert not re.findall(r"<script|<link|\bsrc=.http|@import", page)
    body = page[page.index("<body") :]
    assert body.count("<math") == 5
    assert body.count('display="block"') == 1
    for kept in ("$x$", "$y$", "in $HOME and $PATH", "$5 is none", "$a_b_c$"):
        assert kept in re.sub(r"</?span[^>]*>", "", body)
    assert re.search(r"<mi>a</mi><mo>(<|&lt;|&#x0003C;)</mo><mi>b</mi>", body)
    assert pages.STYLE in page
