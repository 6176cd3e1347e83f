"""The picture of docs/bs_scheduler.md, from its table: `python docs/draw_bs_scheduler.py` (needs the extra dev)."""

import re
from pathlib import Path
from textwrap import fill

import bs_scheduler
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch.utils.data import DataLoader

from sfolib.plotting.style import style
from sfolib.schedules import base

PAGE = Path(__file__).with_name("bs_scheduler.md")
STEPS = 25


def rows():
    """(there, here) of each row of the table, as code."""
    return re.findall(r"^\| `(.+?)` \| `(.+?)` \|", PAGE.read_text(encoding="utf-8"), flags=re.M)


def here(code, b, least, most):
    """The schedule's values, not rounded."""
    schedule = eval(code, vars(base) | {"b": b, "least": least, "most": most})
    return [schedule(t) for t in range(STEPS)]


def there(code, b, least, most):
    """The batch sizes of the library, step by step."""
    loader = DataLoader(range(1000 * b), batch_size=b)
    scheduler = eval(code, vars(bs_scheduler) | {"loader": loader, "least": least, "most": most})
    sizes = []
    for _ in range(STEPS):
        sizes.append(loader.batch_sampler.batch_size)
        scheduler.step()
    return sizes


def main():
    found = rows()
    with style():
        figure, axes = plt.subplots(-(-len(found) // 3), 3, figsize=(9, 11), sharex=True)
        for ax, (theirs, ours) in zip(axes.flat, found, strict=True):
            ax.plot(here(ours, 64, 16, 256), color="black", drawstyle="steps-post", linewidth=1)
            ax.plot(there(theirs, 64, 16, 256), "o", fillstyle="none", markersize=3.5, color="C0")
            ax.set_title(fill(theirs, 48), fontsize=6.5)
            ax.set_ylim(0)
        for ax in axes[:, 0]:
            ax.set_ylabel("batch size")
        for ax in axes[-1]:
            ax.set_xlabel("t")
        figure.savefig(PAGE.with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
