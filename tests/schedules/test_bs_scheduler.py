"""docs/bs_scheduler.md against the library that it is about: every row, step by step."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from sfolib.schedules.adaptive import IncreaseOnPlateau

bs_scheduler = pytest.importorskip("bs_scheduler")
DRAW = Path(__file__).parents[2] / "docs" / "draw_bs_scheduler.py"


def page():
    spec = importlib.util.spec_from_file_location("draw_bs_scheduler", DRAW)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGE = page()
ROWS = PAGE.rows()
THERE = " ".join(there for there, _ in ROWS)


def test_every_scheduler_of_the_library_is_on_the_page():
    policy = {"IncreaseBSOnPlateau", "BSScheduler"}
    shown = {name for name in bs_scheduler.batch_size_schedulers.__all__ if re.search(rf"\b{name}\(", THERE)}
    assert shown == set(bs_scheduler.batch_size_schedulers.__all__) - policy


@pytest.mark.parametrize(("there", "here"), ROWS)
def test_a_row(there, here):
    """With a batch so large that what the library rounds at each change does not add up to much."""
    sizes = {"b": 10**5, "least": 2 * 10**4, "most": 4 * 10**5}
    assert PAGE.here(here, **sizes) == pytest.approx(PAGE.there(there, **sizes), rel=2e-5)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_on_plateau(mode, threshold_mode):
    losses = 1 + np.random.default_rng(0).random(120) / np.arange(1, 121)
    options = {"threshold": 0.05, "threshold_mode": threshold_mode, "cooldown": 3}
    loader = DataLoader(range(10**6), batch_size=8)
    theirs = bs_scheduler.IncreaseBSOnPlateau(loader, mode, 2.0, 4, max_batch_size=300, **options)
    ours = IncreaseOnPlateau(8, 0.1, 2.0, 4, 1, mode=mode, max_batch_size=300, **options)
    averaged = IncreaseOnPlateau(8, 0.1, 2.0, 4, 2, mode=mode, max_batch_size=300, **options)
    sizes = []
    for loss in losses:
        theirs.step(metrics=loss)
        ours.update(ours.batch_size, loss)
        for share in (0.5, 1.5):
            averaged.update(averaged.batch_size, share * loss)
        sizes.append(ours.batch_size)
        assert sizes[-1] == averaged.batch_size == loader.batch_sampler.batch_size
    assert sizes[-1] == 300
    assert len(set(sizes)) == 7  # 8, 16 … 256, 300
