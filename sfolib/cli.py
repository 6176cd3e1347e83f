"""`python -m sfolib …`: exit status 0 if all went well, 1 with a line that says what to mend, 130 if interrupted."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from sfolib import commands
from sfolib._utils import interrupt
from sfolib._utils.errors import InputError, ProcessLost, one_line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. SIGINT and SIGTERM end it with what was trained so far on disk."""
    args = None
    try:
        with interrupt.terminable():
            args = _parser().parse_args(arguments)
            return args.command(args)
    except (InputError, ProcessLost) as error:
        rank = f" rank {os.environ['RANK']}:" if "TORCHELASTIC_RUN_ID" in os.environ else ""
        print(f"sfolib:{rank} {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        kept = getattr(args, "command", None) in (commands.figures, commands.train)
        what = "the same again goes on from there" if kept else "nothing is kept of it"
        print(f"sfolib: interrupted: {one_line(stop) or what}", file=sys.stderr)
        return interrupt.STATUS


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; `{self.prog} --help` tells more")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sfolib", description=sys.modules["sfolib"].__doc__)
    parser.add_argument("--version", action="version", version=f"sfolib {version('sfolib')}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    figures = subparsers.add_parser("figures", help="run notebooks through papermill and write the report page")
    figures.add_argument("names", nargs="*", metavar="NAME", help="notebooks, by name or its beginning (default: all)")
    figures.add_argument("--scale", choices=("smoke", "quick", "paper", "full"), default="quick")
    how = "a parameter of theirs, as in -p eps2 '[0.02]'; again for more"
    figures.add_argument(
        "-p", dest="given", nargs=2, action="append", default=[], metavar=("PARAMETER", "VALUE"), help=how
    )
    how = "a module with schedules of your own, for notebooks that take plans by parameter; again for more"
    figures.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE", help=how)
    figures.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    figures.add_argument("--out", type=Path, default=None, help="folder (default: the project's figures/)")
    how = "train the runs of all notebooks as one grid of tasks there, before any (default: each trains its own)"
    figures.add_argument("--backend", choices=("loky", "dask", "ray"), help=how)
    figures.add_argument("--address", default=None, help="of a Dask scheduler or Ray cluster (default: one made here)")
    figures.add_argument("--dry-run", action="store_true", help="tell what would be trained, and what it would cost")
    figures.add_argument("--strict", action="store_true", help="exit status 1 where a verdict is not the known one")
    figures.add_argument("--again", action="store_true", help="also what has not changed since it last ran")
    figures.set_defaults(command=commands.figures)
    train = subparsers.add_parser(
        "train", help="train what a JSON file in the authors' format, or a spec of ours, says"
    )
    _add_problem(train)
    train.add_argument(
        "--out", type=Path, default=None, help="folder of all that is written (default: the file's csv_path)"
    )
    train.add_argument("--precision", choices=("fp32", "tf32", "bf16"), help="of networks (default: fp32)")
    train.add_argument("--dtype", choices=("float32", "float64"), help="(default: float32)")
    train.add_argument("--micro-batch", type=int, help="most samples at once on a device (default: the batch)")
    norms = "gradient norms of networks: the exact one costs one more pass an epoch, and adds the exact training loss"
    train.add_argument(
        "--norms", choices=("exact", "published", "both", "none"), help=f"{norms} (default: published, as theirs)"
    )
    sample = "training images that loss and exact norm of networks are measured on, with standard errors (default: all)"
    train.add_argument("--eval-samples", type=int, metavar="M", help=sample)
    train.add_argument(
        "--eval-every", type=_epoch_or_ratio, help="'epoch', or the ratio of measuring points' steps (default: epoch)"
    )
    layout = "layout of convolutional networks (default: on the CPU, where it is 1.2 to 1.5 times as fast)"
    train.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=None, help=layout)
    threads = "of the CPU; with other processes busy one is faster than many (default: one on digits, else torch's)"
    train.add_argument("--threads", type=int, help=threads)
    train.add_argument("--resume", action="store_true", help="go on with the run in that folder")
    train.set_defaults(command=commands.train)
    constants = subparsers.add_parser("constants", help="L, sigma2 and gap of the problem of such a file")
    _add_problem(constants)
    constants.set_defaults(command=commands.constants)
    predict = subparsers.add_parser("predict", help="E‖∇f‖² and E f along the run of such a file, and N(b), untrained")
    _add_problem(predict)
    how = "batch size of a pilot in place of the noise-free path, for data sets too large for full gradients"
    predict.add_argument("--pilot", type=int, metavar="BATCH_SIZE", help=how)
    pairs = "of the mean path's cloud, also for N(b); 0: noise-free (default: 32 for dense networks by SGD, N(b) 0)"
    predict.add_argument("--pairs", type=int, help=pairs)
    predict.add_argument("--out", type=Path, default=Path("prediction.png"), help="picture (default: prediction.png)")
    predict.set_defaults(command=commands.predict)
    plan = subparsers.add_parser(
        "plan", help="the schedule to use for such a file, with its prediction; a ready config"
    )
    _add_problem(plan)
    aim = plan.add_mutually_exclusive_group()
    aim.add_argument("--budget", type=int, metavar="N", help="gradient evaluations (default: those of the file)")
    aim.add_argument("--eps", type=float, metavar="E", help="fewest gradient evaluations to ‖∇f‖ ≤ E")
    aim.add_argument("--anytime", action="store_true", help="good at every ‖∇f‖ on the way, adapts to the run")
    objective = "what is to be least (default: grad_norm); time measures this machine"
    plan.add_argument("--objective", choices=("grad_norm", "loss", "time"), default="grad_norm", help=objective)
    plan.add_argument(
        "--worst-case", action="store_true", help="stages from L, sigma2 and gap, the theory's worst case"
    )
    plan.add_argument("--out", type=Path, default=Path("plan.json"), help="the spec of its run (default: plan.json)")
    plan.set_defaults(command=commands.plan)
    sync = subparsers.add_parser("sync", help="write the cells of notebooks that come from their experiments")
    sync.set_defaults(command=commands.sync)
    reference = subparsers.add_parser("reference", help="keep the last figures as the project's reference")
    reference.add_argument("--out", type=Path, default=None, help="folder of the figures (default: the project's)")
    reference.add_argument("--label", default="", help="of figures at full size with other parameters")
    reference.set_defaults(command=commands.reference)
    return parser


def _epoch_or_ratio(text: str) -> str | float:
    if text == "epoch":
        return text
    try:
        ratio = float(text)
    except ValueError:
        ratio = math.nan
    if not 1 < ratio < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} must be 'epoch' or a ratio above 1")
    return ratio


def _add_problem(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG.json")
    known = ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
    parser.add_argument("--dataset", choices=known, help="(default: cifar100)")
    parser.add_argument("--data-dir", metavar="DIR", help="where the data set is (default: data)")
    parser.add_argument("--download", action="store_true", help="fetch a data set that is not there")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<index> (default: auto)")
    parser.add_argument("--seed", type=int, help="(default: 0)")
    how = "a module with schedules, policies or problems of your own that the file names"
    parser.add_argument("--import", dest="modules", action="append", default=[], metavar="MODULE", help=how)
