"""The JSON files and CSV files of the program of "Optimal Growth Schedules for Batch Size and Learning Rate in SGD".

Batch size and learning rate change every `incr_interval` epochs: stage k has batch ⌈bs·bs_exp_rate^k⌉ or
⌈bs + coefficient·k⌉, at most `max_bs`, and learning rate lr·lr_exp_rate^k.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from sfolib._utils import files
from sfolib._utils.errors import InputError, explain, positive, require
from sfolib.schedules.base import Schedule, constant, exponential, linear, piecewise
from sfolib.schedules.plan import Plan

if TYPE_CHECKING:
    from sfolib.training.records import Run

Method = Literal["constant", "linear_growth", "exp_growth"]
HEADERS = {
    "train": ("Epoch", "Steps", "Train Loss", "Train Accuracy", "Learning Rate"),
    "test": ("Epoch", "Steps", "Test Loss", "Test Accuracy"),
    "norm": ("Epoch", "Steps", "Full Gradient Norm"),
    "lr_bs": ("Epoch", "Steps", "Learning Rate", "Batch Size"),
}
_NEEDS = {
    "bs_method": {"linear_growth": ("incr_interval", "coefficient"), "exp_growth": ("incr_interval", "bs_exp_rate")},
    "lr_method": {"linear_growth": ("incr_interval", "lr_coefficient"), "exp_growth": ("incr_interval", "lr_exp_rate")},
}


_README = {"incr_interval": 20, "coefficient": 16, "bs_exp_rate": 2.0, "lr_exp_rate": 1.4}  # the values it names

Whole = Annotated[int, BeforeValidator(lambda value: _whole(value))]


def _whole(value: Any) -> Any:
    """16.0 is 16: JSON has one kind of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class Config(BaseModel):
    """One of their JSON files. Their program's cap of 2048 on a growing batch is `max_bs`.

    lr_coefficient is what "linear_growth" adds to lr a stage; their program knows that method for the batch alone.
    csv_path: folder of the four CSV files, of the user's choice; None where another is given to `write_csv`.
    Keys that are none of these have no effect, as in their program; `ignored` names them.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    model: str
    bs: Whole = Field(ge=1, le=10**9)
    bs_method: Method
    lr: float = Field(gt=0, allow_inf_nan=False)
    lr_method: Method
    epochs: Whole = Field(ge=1, le=10**6)
    csv_path: str | None = Field(None, min_length=1)
    incr_interval: Whole | None = Field(None, ge=1)
    coefficient: float | None = Field(None, allow_inf_nan=False)
    bs_exp_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    lr_coefficient: float | None = Field(None, allow_inf_nan=False)
    lr_exp_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    max_bs: Whole = Field(2048, ge=1, le=10**9)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Keys of the file that have no effect."""
        return tuple(self.model_extra)

    def plan(self) -> Plan:
        """Their schedules as a plan on the clock of epochs. The cap does not hold back the learning rate."""
        every = self.incr_interval or self.epochs
        batch_size = _schedule(self.bs_method, self.bs, self.coefficient, self.bs_exp_rate, every)
        lr = _schedule(self.lr_method, self.lr, self.lr_coefficient, self.lr_exp_rate, every)
        top = math.inf if self.bs_method == "constant" else self.max_bs
        starts = range(0, self.epochs, every)
        sizes = [min(top, batch_size(epoch)) for epoch in starts]
        for epoch, size in zip(starts, sizes, strict=True):
            positive(f"bs at epoch {epoch}", size)
        return Plan(piecewise(map(math.ceil, sizes), starts[1:]), lr, "epoch")


def read_json(path: Path | str) -> dict[str, Any]:
    """The JSON object in a file. `InputError` where there is none."""
    data = files.read_json(Path(path), "it must hold one JSON object", "config")
    require(isinstance(data, dict), "config", str(path), "must hold one JSON object")
    return data


def read(path: Path | str) -> Config:
    """Read a JSON file of theirs; see `parse`."""
    return parse(read_json(path))


def parse(data: dict[str, Any]) -> Config:
    """One of their JSON objects. `InputError` names a key that is missing or of a wrong kind."""
    try:
        config = Config(**data)
    except ValidationError as error:
        raise explain(error) from error
    for method, keys in _NEEDS.items():
        value = getattr(config, method)
        for key in keys.get(value, ()):
            if getattr(config, key) is None:
                example = f"; their README's value is {_README[key]}" if key in _README else ""
                raise InputError(f"{key}: missing; {method} = {value!r} needs it{example}")
    return config


def write_csv(config: Config, run: Run, samples_per_epoch: int, folder: Path) -> None:
    """Write the four CSV files of a run that measured every epoch into `folder`.

    Same names, headers and meaning: loss and accuracy (in %) over the epoch's batches as they were trained on, the
    gradient norm as their program takes it (the exact one where there is neither augmentation nor BatchNorm, or where
    only that was taken; no norm.csv where none was), nominal batch sizes, a row a step. Test loss is the mean over
    samples.
    """
    plan, rows = config.plan(), run.rows[run.rows["step"] > 0]
    epochs, steps = range(1, len(rows) + 1), rows["step"]
    pairs = [plan.at(epoch - 1) for epoch in epochs]
    norms = [name for name in ("published_sqnorm", "grad_sqnorm") if name in rows]
    walk = plan.walk(samples_per_epoch, len(rows))
    content: dict[str, Iterable[tuple[Any, ...]]] = {
        "train": zip(
            epochs, steps, rows["running_loss"], 100 * rows["running_accuracy"], [lr for _, lr in pairs], strict=True
        ),
        "test": zip(epochs, steps, rows["test_loss"], 100 * rows["test_accuracy"], strict=True),
        "lr_bs": ((s.epoch + 1, s.step, s.lr, pairs[s.epoch][0]) for s in walk),
    }
    if norms:
        content["norm"] = zip(epochs, steps, rows[norms[0]] ** 0.5, strict=True)
    files.folder(folder)
    for name, lines in content.items():
        with files.replacing(folder / f"{name}.csv") as file:
            writer = csv.writer(file)
            writer.writerow(HEADERS[name])
            writer.writerows(lines)


def _schedule(method: Method, start: float, coefficient: float | None, rate: float | None, every: int) -> Schedule:
    if method == "linear_growth":
        return linear(start, coefficient, every)
    return exponential(start, rate, every) if method == "exp_growth" else constant(start)
