"""What the commands of `cli` do: each takes the parsed arguments and returns the exit status."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfolib._utils.errors import InputError, explain, require, shown

if TYPE_CHECKING:
    from sfolib.experiments.umeda_iiduka import Config
    from sfolib.training.loop import Trainer
    from sfolib.training.spec import Spec

_SETTINGS = {  # of `train`: option, field
    "precision": "precision",
    "dtype": "dtype",
    "micro_batch": "max_micro_batch",
    "channels_last": "channels_last",
    "eval_every": "eval_every",
    "norms": "grad_norms",
    "eval_samples": "eval_samples",
}


def figures(args: argparse.Namespace) -> int:
    from sfolib.experiments import report, run_notebooks
    from sfolib.experiments.project import root

    require(args.jobs >= 1, "jobs", args.jobs, "must be 1 or more")
    out, notebooks = args.out or root() / "figures", report.select(args.names)
    if args.scale == "full":
        notebooks = _at_full_size(notebooks, args.names)
    given = {name: _value(text) for name, text in args.given}
    for name in ("scale", "jobs", "out"):
        require(name not in given, name, given.get(name), f"is said by --{name}")
    given |= {"imports": ",".join(args.modules)} if args.modules else {}
    for path in notebooks if given else ():
        run_notebooks.refuse(path, given)
    for name in filter(None, (given.get("imports") or "").split(",")):
        _import(name)
    if given or args.dry_run:
        from sfolib.experiments import registry
    if given:
        for path in notebooks:  # before a kernel is started, and a notebook written
            registry.parameters(path, args.scale, out, given)
    compared = not args.strict or args.scale in report.kept_verdicts()
    require(
        compared, "strict", args.scale, "no verdicts are kept at that scale: `python -m sfolib reference` keeps them"
    )
    if args.dry_run:
        from sfolib.experiments import cost

        plans = [registry.planned(path, args.scale, out, given) for path in notebooks]
        print(cost.table(plans, args.jobs))
        return 1 if all(plan.error for plan in plans) else 0
    due = [path for path in notebooks if args.again or not run_notebooks.is_up_to_date(path, out, args.scale, given)]
    require(args.backend or not args.address, "address", args.address, "is of a cluster; add --backend dask or ray")
    lost = {}
    if args.backend:
        from sfolib.experiments import registry
        from sfolib.training import executors

        with executors.backend(args.backend, args.address, args.jobs):
            lost = registry.train_all(due, args.scale, out, args.jobs, given)
    outcomes = run_notebooks.figures(
        [path.stem for path in notebooks], args.scale, args.jobs, out, args.again, lost, given
    )
    turned = report.write(out, outcomes)
    print("\n".join([*turned, *report.headlines(out), f"report: {out / 'index.html'}"]))
    return 1 if any(outcome.error for outcome in outcomes) or (args.strict and turned) else 0


def _at_full_size(notebooks: list[Path], named: list[str]) -> list[Path]:
    """Those that have a scale "full": of all, or all that were named."""
    from sfolib.experiments import registry

    found = [path for path in notebooks if "full" in registry.experiment(path).Parameters.SCALES]
    missing = [path.stem for path in notebooks if path not in found] if named else []
    require(not missing, "scale", "full", f"{', '.join(missing)} has none; 'paper' is the largest there")
    return found


def _value(text: str) -> Any:
    """A parameter's value as JSON says it; what is no JSON is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def train(args: argparse.Namespace) -> int:
    from sfolib._utils import distributed, files
    from sfolib.analysis import assumptions
    from sfolib.experiments import umeda_iiduka
    from sfolib.training import records
    from sfolib.training.loop import resolve_device
    from sfolib.training.run import CHECKPOINT, run_in

    processors = os.cpu_count() or 1  # of thousands of threads OpenMP dies
    few = args.threads is None or 1 <= args.threads <= processors
    require(few, "threads", args.threads, f"must be from 1 to {processors}, the processors here")
    config, spec = _read(args)
    named = args.out or (config and config.csv_path)
    require(named is not None, "out", None, f"{args.config} names no csv_path; add --out DIR")
    out = Path(named)
    files.folder(out)  # rather now than after the training
    with distributed.joined(resolve_device(args.device)) as (ranks, device):
        begun = any((out / name).exists() for name in (records.METRICS, records.RUN, CHECKPOINT))
        ended = (out / records.RUN).exists()
        how = "holds a run; add --resume to go on, or choose another folder"
        require(args.resume or not begun, "out", str(out), how)
        ranks.barrier()  # for all to have seen the folder as it was
        if ranks.is_main:
            print(f"output: {out.resolve()}", flush=True)
            if config and config.ignored:
                print(f"warning: without effect, as in the authors' program: {shown(config.ignored)}", file=sys.stderr)
        if ended:
            run = records.load(out)
            mine = run.provenance["key"] == spec.key
            require(mine, "out", str(out), "holds a run of another config, data set or seed")
        else:
            run_lock = records.run_lock(out, wait=False) if ranks.is_main else nullcontext()
            chosen = args.threads is not None or device != "cpu" or ranks.size > 1
            with run_lock, _Progress(spec.max_samples, ranks.is_main, not chosen) as progress:
                run = run_in(out, spec, device, 10.0, progress, ranks, args.threads)
        if ranks.is_main:
            for mark in assumptions.violations(run):
                print(f"warning: {mark.text}", file=sys.stderr)
            if config and spec.eval_every == "epoch":
                umeda_iiduka.write_csv(config, run, spec.problem.size, out)
            elif config:
                print("warning: no CSV files, which have a row an epoch; leave out --eval-every", file=sys.stderr)
            print(f"run: {out}; {run}")
    return 1 if run.status == "diverged" else 0


def constants(args: argparse.Namespace) -> int:
    from sfolib.analysis import constants

    print(constants.table(constants.estimate(_read(args)[1], args.device)))
    return 0


def predict(args: argparse.Namespace) -> int:
    from sfolib import plotting
    from sfolib.analysis import predict

    spec = _read(args)[1]
    _check_picture(args.out)
    along = predict.predict(spec, args.device, pilot_batch_size=args.pilot, pairs=args.pairs)
    print(predict.table(along))
    constant = predict.by_batch_size(spec, along, args.device, pilot_batch_size=args.pilot, pairs=args.pairs or 0)
    if constant is None:
        print("no table by batch size: it is of SGD at a constant lr, to the powers of ten that ‖∇f‖² passes if any")
    else:
        print(predict.table_by_batch_size(constant))
        if along.pairs and not args.pairs:
            print("N(b) is of the noise-free path, less true than the curve; --pairs: mean paths, which take long")
    try:
        plotting.prediction(along.table, constant).savefig(args.out, dpi=150)
    except OSError as error:
        raise _unwritable(args.out, error) from error
    print(f"picture: {args.out}")
    return 0


def _check_picture(out: Path) -> None:
    """`InputError` where no new picture can be written there, before the work that it is of."""
    from matplotlib.backend_bases import FigureCanvasBase

    require(not out.exists(), "out", str(out), "exists; choose another file with --out")
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    require(out.suffix[1:].lower() in known, "out", str(out), f"must end in one of .{', .'.join(known)}")
    try:
        out.open("xb").close()
        out.unlink()
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError) -> InputError:
    return InputError(f"out = {str(out)!r}: cannot be written ({error.strerror}); choose another file with --out")


def plan(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from sfolib import plotting
    from sfolib.analysis.recommend import recommend, worst_case
    from sfolib.training import records

    picture = args.out.with_suffix(".png")
    for path in (args.out, picture):
        require(not path.exists(), "out", str(path), "exists; choose another file with --out")
    config, spec = _read(args)
    most = {"max_batch_size": config.max_bs if config else None, "device": args.device}
    if args.worst_case:
        aim = args.eps is None and not args.anytime and args.objective != "loss"
        require(aim, "worst-case", True, "goes with --budget, and --objective grad_norm or time")
        if args.budget is not None:
            spec = type(spec).model_validate(spec.model_dump() | {"max_samples": args.budget})
        worst = worst_case(spec, "time" if args.objective == "time" else "samples", **most)
        text, found, paths = worst.table, worst.spec, {}
    else:
        aim = {"budget": args.budget, "eps": args.eps, "anytime": args.anytime, "objective": args.objective}
        # from its first step on, with the arguments found good; on a terminal
        with tqdm(unit="step", desc="path without noise", leave=False, delay=1e-3, disable=None) as bar:
            best = recommend(spec, **aim, **most, progress=lambda step, total: _advance(bar, step, total))
        text, found, paths = best, best.spec, best.paths
    print(text)
    records.write_json(args.out, found.model_dump(mode="json"))
    if paths:
        plotting.recommended(paths).savefig(picture, dpi=150)
        print(f"picture: {picture}")
    print(f"spec: {args.out}; run it by: python -m sfolib train {args.out} --out DIR")
    return 0


def sync(args: argparse.Namespace) -> int:
    from sfolib.experiments import registry, report

    changed = [path.stem for path in report.select(()) if registry.sync(path)]
    print("\n".join(changed) or "every cell is as its experiment says")
    return 0


def reference(args: argparse.Namespace) -> int:
    from sfolib.experiments import reference

    reference.keep(args.out, args.label)
    return 0


def _advance(bar: Any, step: int, total: int) -> None:
    bar.total = total
    bar.update(step - bar.n)


def _read(args: argparse.Namespace) -> tuple[Config | None, Spec]:
    """The authors' config, if it is one, and the spec that a file asks for."""
    from pydantic import ValidationError

    from sfolib.experiments import umeda_iiduka
    from sfolib.training.spec import Spec

    for name in args.modules:
        _import(name)
    data = umeda_iiduka.read_json(args.config)
    try:
        if "problem" not in data:
            config = umeda_iiduka.parse(data)
            return config, _asked(config, args)
        given = {name: getattr(args, name, None) for name in ("dataset", "data_dir", "seed", *_SETTINGS)}
        for name, value in (given | {"download": args.download or None}).items():
            require(value is None, name, value, f"is for files in the authors' format; say it in {args.config}")
        return None, Spec.model_validate(data)
    except ValidationError as error:
        raise explain(error) from error


def _import(name: str) -> None:
    """A module of the user's, from where they are."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        import_module(name)
    except ImportError as error:
        raise InputError(f"import = {name!r}: {error}") from error


def _asked(config: Config, args: argparse.Namespace) -> Spec:
    """What a config of the authors asks for, with the command line's settings."""
    from sfolib import problems
    from sfolib.training.spec import Spec

    dataset = args.dataset or "cifar100"
    place = {"data_dir": args.data_dir or "data", "download": args.download}
    problem = problems.named(dataset, config.model, **place)
    chosen = {field: value for name, field in _SETTINGS.items() if (value := getattr(args, name, None)) is not None}
    norms = chosen.pop("grad_norms", "published")
    if dataset == "digits" and problem.model is None and norms != "none":
        norms = "exact"  # of dense networks it is the published one too
    return Spec(
        problem=problem, plan=config.plan(), max_samples=config.epochs * problem.size, seeds=(args.seed or 0,),
        log_train_metrics=True, grad_norms=norms, **chosen,
    )  # fmt: skip


class _Progress:
    """A bar over gradient evaluations, with epoch, batch size, learning rate and loss; `timed`: a warning before the
    first step where one CPU thread is faster than those there are."""

    def __init__(self, total: int, shown: bool, timed: bool):
        self.total, self.shown, self.timed, self.bar = total, shown, timed, None

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, trainer: Trainer, rows: list[dict[str, Any]]) -> None:
        from tqdm import tqdm

        last = rows[-1]
        if self.timed and not trainer.step:
            _warn_of_threads(trainer)
        if self.bar is None:  # a resumed run does not start at 0
            self.bar = tqdm(
                total=self.total, initial=last["samples"], unit="SFO", unit_scale=True, disable=not self.shown
            )
        shown = {
            "epoch": f"{last['epoch']:.4g}",
            "batch_size": last["batch_size"],
            "lr": last["lr"],
            "loss": last.get("loss", last.get("running_loss")),
        }
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(last["samples"] - self.bar.n)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _warn_of_threads(trainer: Trainer) -> None:
    """Rather than a choice: rounding, and so a run's last digits, depend on the number of threads."""
    import torch

    from sfolib.training.run import single_thread_gain

    threads = torch.get_num_threads()
    if threads > 1 and (gain := single_thread_gain(trainer)) > 1.1:
        print(f"warning: a step on {threads} CPU threads takes {gain:.2g} times as long as on one; "
              "add --threads 1", file=sys.stderr)  # fmt: skip
