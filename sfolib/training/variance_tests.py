"""What T10's tests see at points of a run: their statistics on many fresh batches of each size, beside ‖∇f‖² itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from sfolib._utils.errors import require
from sfolib.training import policy_signals
from sfolib.training.estimates import ratio_of_means
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec

_ELSEWHERE = 10**6  # epochs; draws from there on are none that a run makes
_STATISTICS = ("mean_sqnorm", "variance", "inner_product_variance", "orthogonal_variance")


def looks(
    spec: Spec, marks: Sequence[int], sizes: Sequence[int], samples: int, *, per_tensor: bool = False
) -> pd.DataFrame:
    """A row for each of `marks`, gradient evaluations of the run so far, and each batch size: means over batches.

    As many batches of a size are drawn as `samples` allow, at least one, in the way of spec.sampling; with
    "permutation" a size of the whole data set is just that. Columns: samples, batch_size, grad_sqnorm = ‖∇f‖², and the
    fields of `gradients.GradientStatistics`; with `per_tensor` those of the sum over parameter tensors; asked, tr Σ
    over ‖g‖², with its 95 % interval over the batches (asked_low, asked_high).
    Needs one seed, and marks that rise and are within spec.max_samples.
    """
    require(len(spec.seeds) == 1, "seeds", spec.seeds, "must be one")
    rising = list(marks) == sorted(marks) and marks[-1] <= spec.max_samples
    require(rising, "marks", marks, f"must rise, and be at most max_samples = {spec.max_samples}")
    threads, rows = torch.get_num_threads(), []
    torch.set_num_threads(spec.problem.threads or threads)  # as in a run: its numbers do not depend on the machine's
    try:
        trainer = Trainer(spec, "cpu")
        first = _ELSEWHERE * trainer.task.samples_per_epoch
        for mark in tqdm(marks, desc=f"statistics of {spec.problem.kind}", unit="point"):
            while trainer.samples < mark:
                trainer.advance()
            grad_sqnorm = trainer.task.measure()["grad_sqnorm"].item()
            for size in sizes:
                starts = range(first, first + max(samples, size), size)
                found = [policy_signals.statistics(trainer.task, start, size, per_tensor) for start in starts]
                means = {name: sum(getattr(f, name) for f in found) / len(found) for name in _STATISTICS}
                each = (np.array([[float(getattr(f, name))] for f in found]) for name in ("variance", "mean_sqnorm"))
                asked = (float(end[0]) for end in ratio_of_means(*each))
                asked_for = dict(zip(("asked", "asked_low", "asked_high"), asked, strict=True))
                rows.append(
                    {"samples": trainer.samples, "batch_size": size, "grad_sqnorm": grad_sqnorm, **means, **asked_for}
                )
    finally:
        torch.set_num_threads(threads)
    return pd.DataFrame(rows)
