"""Figures say what their records say; how they look is for eyes."""

import nbformat
import numpy as np
import pandas as pd
from nbclient import NotebookClient

from sfolib import figures
from sfolib.check import Slope


def frame(source, sfo, eps2=1e-2):
    sfo = np.array(sfo, dtype=float)
    batch = 2 ** np.arange(len(sfo))
    return pd.DataFrame(
        {
            "source": source,
            "eps2": eps2,
            "batch": batch,
            "sfo": sfo,
            "steps": sfo / batch,
            "low": sfo / 2,
            "high": sfo * 2,
        }
    )


def test_what_was_not_reached_is_a_cross_and_no_point():
    measured = frame("measured", [np.inf, 400, 200, 300])
    axis = figures.against_batch(
        {"a problem": pd.concat([measured, frame("bound", [np.inf, np.inf, 900, 800])])}, "sfo"
    ).axes[0]
    crosses = [line for line in axis.lines if line.get_marker() == "x"]
    assert [list(line.get_xdata()) for line in crosses] == [[1]]
    curve = next(line for line in axis.lines if line.get_marker() == "o" and line.get_linestyle() == "-")
    assert list(curve.get_xdata()) == [2, 4, 8]
    assert list(curve.get_ydata()) == [400, 200, 300]
    marked = {
        line.get_marker(): (*line.get_xdata(), *line.get_ydata()) for line in axis.lines if len(line.get_xdata()) == 1
    }
    assert marked["o"] == (4, 200)
    assert marked["*"] == (8, 800)


def test_a_fitted_exponent_is_told_with_its_interval():
    x = np.array([1.0, 2.0])
    figure = figures.power_laws(
        {"y": [figures.Curve("digits: measured", "measured", x, x, Slope(-2.0, -2.5, -1.5))]}, "x"
    )
    assert figure.axes[0].get_legend().get_texts()[0].get_text() == "digits: measured, exponent -2.00 [-2.50, -1.50]"


def test_a_notebook_goes_on_showing_figures():
    """The inline backend turns itself on with the first figure; the style's context must not turn it off again."""
    drawn = "figures.power_laws({'y': [figures.Curve('a: b', 'bound', x, x)]}, 'x'); 1"
    sources = ("import numpy as np; from sfolib import figures; x = np.array([1.0, 2.0])", drawn, drawn)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=120).execute()
    shown = [[output.output_type for output in cell.outputs] for cell in notebook.cells]
    assert ["display_data" in types for types in shown] == [False, True, True]
