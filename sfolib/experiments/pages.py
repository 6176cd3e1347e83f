"""Executed notebooks as pages that need no network: formulas as MathML, which browsers render, and no scripts."""

from __future__ import annotations

import html
import re
from pathlib import Path

from sfolib._utils import files

_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.S)
# fonts with a table of how to set formulas, as Windows, macOS, TeX and Linux have them
STYLE = 'math { font-family: "Cambria Math", "STIX Two Math", "Latin Modern Math", "DejaVu Math TeX Gyre", math }'
_AS_TEX = {
    r"<mo>(&#x02016;)</mo>": r'<mo stretchy="false">\1</mo>',  # ‖: low where it has an exponent
    r"<mo>(&#x0002F;)</mo>": r'<mo lspace="0" rspace="0">\1</mo>',  # b/η without spaces
    r"<mi>([a-z]{2,})</mi>(?=<m[infrs])": r'<mi>\1</mi><mspace width="0.167em"></mspace>',  # ln x with one
}
_AS_WRITTEN = ["pre", "code", "script", "style", "textarea"]  # what MathJax leaves alone too


def write(executed: Path) -> None:
    """An executed notebook as a page, beside it."""
    from bs4 import BeautifulSoup
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    exporter = HTMLExporter()
    exporter.register_preprocessor(CoalesceStreamsPreprocessor(), enabled=True)  # of a bar what it showed last
    exporter.log.setLevel("ERROR")  # it warns of pictures without a text
    page = BeautifulSoup(exporter.from_filename(str(executed))[0], "html.parser")
    for script in page.find_all("script"):  # require.js, MathJax and Mermaid, from the network
        script.decompose()
    for text in page.body.find_all(string=_FORMULA):
        if not text.find_parent(_AS_WRITTEN):
            text.replace_with(BeautifulSoup(with_formulas(text.output_ready("minimal")), "html.parser"))
    page.head.append(BeautifulSoup(f"<style>{STYLE}</style>", "html.parser"))
    with files.replacing(executed.with_suffix(".html")) as file:
        file.write(str(page))


def with_formulas(text: str) -> str:
    """HTML of a text with its $formulas$ and $$displayed ones$$ as MathML; what is none stays as it is."""

    def converted(found: re.Match) -> str:
        try:
            return mathml(html.unescape(found[1] or found[2]), "block" if found[1] else "inline")
        except ValueError:
            return found[0]

    return _FORMULA.sub(converted, text)


def mathml(tex: str, display: str = "inline") -> str:
    """A formula as MathML Core, which is what Chromium knows. Raises ValueError for what is no formula."""
    from latex2mathml.converter import convert

    try:
        text = convert(re.sub(r"(\\math\w+) (\w)", r"\1{\2}", tex), display=display)  # 𝔼 takes braces
    except Exception as error:  # they have no class in common
        raise ValueError(f"{tex}: {error or type(error).__name__}") from error
    for found, as_tex in _AS_TEX.items():
        text = re.sub(found, as_tex, text)
    return text
