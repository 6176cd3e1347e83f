"""One run in two processes beside the same run in one. Run by torchrun, this file is the program of a rank."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torture
from torch import nn
from torch.nn.functional import cross_entropy

from sfolib import cli
from sfolib._utils.distributed import SINGLE, ProcessGroup, joined
from sfolib._utils.errors import ProcessLost
from sfolib.gradients import SuccessiveGradients
from sfolib.gradients.statistics import full_gradient_sqnorm, gradient_statistics, sampled_gradient_sqnorm
from sfolib.problems import models
from sfolib.problems.batches import crop_and_flip
from sfolib.problems.execution import Execution
from sfolib.problems.network import ImageData, NetworkTask
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training import records
from sfolib.training.run import CHECKPOINT, run_in
from sfolib.training.spec import Spec

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]
N = 797
GROWING = Plan(exponential(1, 1.5, 20), exponential(0.05, 1.2, 20), "step", max_batch_size=90)  # 1, 2, 2, 3, 5 … 58
POLICIES = {
    "epsilon": {"kind": "GradNormTrigger", "batch_size": 9, "lr": 0.3, "eps": 0.6, "delta": 2, "check_every": 5},
    "norm": {"kind": "NormTest", "eta": 0.7, "batch_size": 9, "lr": 0.3, "test_interval": 4, "max_batch_size": 300},
    "augmented": {"kind": "AugmentedInnerProductTest", "theta": 0.3, "nu": 1.0, "batch_size": 9, "lr": 0.3},
    "successive": {
        "kind": "SuccessiveGradientTest",
        "batch_size": 9,
        "lr": 3.0,
        "error": 0.9,
        "every": 8,
        "memory": 2.0,
    },
    "horizon": {"kind": "HorizonRamp", "batch_size": 9, "lr": 0.3, "budget": 2600, "look": (0.5, 0.8), "probes": 1000},
    "autowu": {
        "kind": "AutoWU",
        "total_steps": 60,
        "steps_per_epoch": 13,
        "batch_size": 63,
        "min_lr": 0.1,
        "max_lr": 99,
    },
}
CONFIG = {"model": "softmax", "bs": 7, "bs_method": "exp_growth", "bs_exp_rate": 2.0, "lr": 0.1,
          "lr_method": "constant", "incr_interval": 2, "epochs": 8, "csv_path": "csv"}  # fmt: skip


def specs():
    problems = {"softmax": Digits(l2=1e-2, holdout=1000), "mlp": Digits(hidden=(6,), l2=1e-2, holdout=1000)}
    common = {"dtype": "float64", "max_samples": 10**6, "max_steps": 200, "eval_every": 1.0001}  # at every step
    yield "softmax", Spec(problem=problems["softmax"], plan=GROWING, seeds=(3, 5), log_train_metrics=True, **common)
    yield "mlp", Spec(problem=problems["mlp"], plan=GROWING, seeds=(3,), sampling="replacement", **common)
    yield (
        "adagrad",
        Spec(problem=problems["mlp"], plan=Plan(11, 0.1), optimizer="adagrad_norm", **common | {"max_steps": 20}),
    )
    few = {
        "max_steps": 8,
        "eval_every": 2.0,
        "max_micro_batch": 10,
        "grad_norms": "both",
        "log_train_metrics": True,
    }
    yield "cnn", Spec(problem=Digits(model="cnn", l2=1e-2, holdout=1000), plan=Plan(25, 0.1), **common | few)
    for name, policy in POLICIES.items():
        told = {"policy": policy, "log_train_metrics": name == "autowu", **common, "max_steps": 60, "eval_every": 1.5}
        if "budget" in policy:
            told |= {"max_samples": policy["budget"], "max_steps": None, "eval_every": 1.05}
        yield name, Spec(problem=problems["softmax"], **told)


def bn_trajectory(ranks, micro_batch):
    """A network with BatchNorm: what is measured every 5 steps, at batches from 1 up, and its running means."""
    rng = np.random.default_rng(0)
    images = [(rng.integers(0, 256, (n, 1, 8, 8), dtype=np.uint8), rng.integers(0, 3, n)) for n in (41, 9)]
    data = ImageData(*images, 3, (0.5,), (0.25,), crop_and_flip)
    models.MODELS["bn"] = lambda classes, shape: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)),
        nn.Flatten(), nn.Linear(48, classes),
    )  # fmt: skip
    how = Execution(max_micro_batch=micro_batch, grad_norms="both", log_train_metrics=True)
    task = NetworkTask("bn", data, 1e-2, (2, 4), "permutation", "cpu", "float64", how)
    task.share_among(ranks)
    samples, found = 0, []
    for step in range(30):
        batch_size = task.batch_size(samples, 1 + step // 2)
        torch._foreach_sub_(task.parameters, task.gradients(step, samples, batch_size), alpha=0.1)
        samples += batch_size
        if step % 5 == 0:
            found += [*task.measure().values()]
    return [t.double() for t in [*found, *task.parameters, *task.buffers]]


def statistics(ranks):
    """Of 1 to 9 samples a rank, and of none on the first."""
    rng = torch.Generator().manual_seed(0)
    model = models.build("cnn", 4, (1, 8, 8), 0).double()
    x, y = torch.randn(17, 1, 8, 8, generator=rng, dtype=torch.float64), torch.arange(17) % 4
    found = []
    for n, share in [(2, ranks.shard(2)), (7, ranks.shard(7)), (17, ranks.shard(17)), (5, slice(5 * ranks.rank, 5))]:
        share = slice(0, 5) if (n, ranks.size) == (5, 1) else share
        for told in ({"l2": 0.1}, {"per_tensor": True}):
            found.append(vars(gradient_statistics(model, cross_entropy, x[share], y[share], ranks=ranks, **told)))
        found.append({"sqnorm": full_gradient_sqnorm(model, cross_entropy, (x[share], y[share]), l2=0.1, ranks=ranks)})
    twice = x.repeat(3, 1, 1, 1)[:30], y.repeat(3)[:30]  # three samples a group, shared as one and two
    found.append(sampled_gradient_sqnorm(model, cross_entropy, twice, 50, l2=0.1, ranks=ranks)._asdict())
    return found


def successive(ranks):
    """What a loop of one's own collects: of two ranks under DistributedDataParallel, or of two halves."""
    torch.manual_seed(0)
    model, x, y = nn.Linear(5, 3).double(), torch.randn(6, 8, 5, dtype=torch.float64), torch.arange(48).view(6, 8) % 3
    halves, optimizer = SuccessiveGradients(), torch.optim.SGD(model.parameters(), lr=0.1)
    # a group of its own: DDP keeps its group's threads to the end of the process, where one that still lets go of a
    # tensor aborts it
    wrapped = model if ranks.size == 1 else nn.parallel.DistributedDataParallel(model, process_group=dist.new_group())
    if ranks.size > 1:
        wrapped.register_comm_hook(halves, SuccessiveGradients.hook)
    for xb, yb in zip(x, y, strict=True):
        optimizer.zero_grad()
        for share in [slice(0, 4), slice(4, 8)] if ranks.size == 1 else [ranks.shard(8)]:
            (cross_entropy(wrapped(xb[share]), yb[share]) / (2 if ranks.size == 1 else 1)).backward()
            if ranks.size == 1:
                halves.part(model.parameters(), 4)
        halves.step(model.parameters(), 8)
        optimizer.step()
    return [each.tolist() for each in halves.take()]


def everything(ranks, out):
    """All that is compared, into `out`."""
    for name, spec in specs():
        path = []
        run = run_in(None, spec, "cpu", watch=lambda trainer, _: path.append(flat(trainer)), ranks=ranks)  # noqa: B023
        told = (
            run.rows
            if name in POLICIES
            else run.rows.assign(checked=np.repeat([p.sum() for p in path], len(spec.seeds)))
        )
        told.to_json(out / f"{name}.{ranks.rank}.json", orient="records", double_precision=15)
        np.save(out / f"{name}.{ranks.rank}.npy", np.stack(path))
    for micro_batch in (None, 4):
        torch.save(bn_trajectory(ranks, micro_batch), out / f"bn{micro_batch}.{ranks.rank}.pt")
    (out / f"statistics.{ranks.rank}.json").write_text(json.dumps(statistics(ranks)))
    (out / f"products.{ranks.rank}.json").write_text(json.dumps(successive(ranks)))


def flat(trainer):
    return torch.cat([p.flatten() for p in trainer.task.parameters]).numpy().copy()


def torchrun(*arguments, ranks=2, **kwargs):
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [*program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, **kwargs)


def forked(ranks, told, target, *arguments):
    """As torchrun would, but forked where all is imported: so many processes of one run. What each writes is in
    `told`, a folder; returns their exit statuses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        common = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "TORCHELASTIC_RUN_ID": "test"}
        common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": found.getsockname()[1]}
    here = [common | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]
    context = torture.server()
    processes = [context.Process(target=_rank, args=(one, told, target, *arguments)) for one in here]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    return [process.exitcode for process in processes]


def _rank(here, told, target, *arguments):
    os.environ.update({name: str(value) for name, value in here.items()})
    with open(told / f"{here['RANK']}.txt", "w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    torch.set_num_threads(1)
    sys.exit(target(*arguments))


def _everything(out):
    with joined("cpu") as (world, _):
        everything(world, out)
        with pytest.raises(ProcessLost, match=r"rank 0: .*rank 1: "):
            world.agree("their numbers", world.rank)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folder of what two ranks found, and of what one process found."""
    folders = [tmp_path_factory.mktemp(name) for name in ("two", "one")]
    assert forked(2, folders[0], _everything, folders[0]) == [0, 0], (folders[0] / "0.txt").read_text()
    everything(SINGLE, folders[1])
    return folders


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", [name for name, _ in specs()])
def test_two_ranks_do_what_one_process_does(both, name):
    two, one = both
    paths = [np.load(two / f"{name}.{rank}.npy") for rank in (0, 1)]
    assert np.array_equal(*paths)
    alone = np.load(one / f"{name}.0.npy")
    same(paths[0], alone)
    assert len(alone) > 4
    rows = [pd.read_json(folder / f"{name}.0.json") for folder in both]
    assert list(rows[0]["true_batch_size"]) == list(rows[1]["true_batch_size"])
    different = ["micro_batch"] if name == "cnn" else []  # what is at once on two devices
    same(*(frame.drop(columns=different).to_numpy(float) for frame in rows))


def test_the_growing_plan_grew_and_the_policies_adapted(both):
    for name in ("mlp", *POLICIES):
        rows = pd.read_json(both[1] / f"{name}.0.json")
        assert rows["batch_size"].nunique() > 2 or rows["lr"].nunique() > 4, name
    assert 200 in set(pd.read_json(both[1] / "mlp.0.json")["step"])


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_batch_norm_sees_the_batches_of_all_ranks(both, micro_batch):
    two, again, one = (torch.load(both[i] / f"bn{micro_batch}.{rank}.pt") for i, rank in ((0, 0), (0, 1), (1, 0)))
    for a, b, c in zip(two, again, one, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, rtol=1e-10, atol=1e-12)


def test_the_ranks_of_ddp_are_the_parts_of_a_batch(both):
    two, again, one = (
        json.loads((both[i] / f"products.{rank}.json").read_text()) for i, rank in ((0, 0), (0, 1), (1, 0))
    )
    np.testing.assert_array_equal(two, again)
    same(np.array(two), np.array(one))


def test_statistics_have_the_terms_across_ranks(both):
    two, again, one = (
        json.loads((both[i] / f"statistics.{rank}.json").read_text()) for i, rank in ((0, 0), (0, 1), (1, 0))
    )
    assert two == again
    for a, b in zip(two, one, strict=True):
        assert a == {k: pytest.approx(v, rel=1e-10) for k, v in b.items()}


def test_shares_cover_a_batch_and_differ_by_one():
    for n in range(12):
        parts = [ProcessGroup(rank, 5).shard(n) for rank in range(5)]
        assert [i for part in parts for i in range(n)[part]] == list(range(n))
        sizes = {part.stop - part.start for part in parts}
        assert max(sizes) - min(sizes) <= 1


def command(folder, *more):
    (folder / "config.json").write_text(json.dumps(CONFIG | {"csv_path": str(folder / "csv")}))
    where = ("--dataset", "digits", "--device", "cpu", "--dtype", "float64", "--out", str(folder / "out"))
    return ["train", str(folder / "config.json"), *where, *more]


def test_a_run_goes_on_with_another_number_of_ranks_after_one_has_died(tmp_path):
    (tmp_path / "whole").mkdir()
    assert cli.main(command(tmp_path / "whole")) == 0
    whole = records.load(tmp_path / "whole" / "out")
    died = torchrun(__file__, *command(tmp_path))
    assert died.returncode != 0
    assert "sfolib: rank 0: " in died.stderr
    assert "has ended" in died.stderr or "has died" in died.stderr
    assert not (tmp_path / "out" / records.RUN).exists()
    state = torch.load(tmp_path / "out" / CHECKPOINT, weights_only=True)
    assert 0 < state["samples"] < whole.samples[-1]
    begun = (tmp_path / "out" / records.METRICS).read_bytes()[: state["length"]]
    resumed = torchrun("-m", "sfolib", *command(tmp_path, "--resume"), ranks=3)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("run: ") == 1
    found = records.load(tmp_path / "out")
    assert found.provenance["ranks"] == 3
    assert (tmp_path / "out" / records.METRICS).read_bytes().startswith(begun)
    same(found.rows.to_numpy(float), whole.rows.to_numpy(float))
    for name in ("train", "test", "norm", "lr_bs"):
        same(
            *(
                np.genfromtxt(f / "out" / f"{name}.csv", skip_header=1, delimiter=",")
                for f in (tmp_path, tmp_path / "whole")
            )
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_one_rank_on_a_gpu_by_nccl(tmp_path):
    arguments = command(tmp_path)
    arguments[arguments.index("cpu")] = "auto"
    found = torchrun("-m", "sfolib", *arguments, ranks=1)
    assert found.returncode == 0, found.stderr
    (tmp_path / "cpu").mkdir()
    assert cli.main(command(tmp_path / "cpu")) == 0
    runs = [records.load(folder / "out") for folder in (tmp_path, tmp_path / "cpu")]
    np.testing.assert_allclose(*(run.rows.to_numpy(float) for run in runs), rtol=1e-8, atol=1e-12)


def _die(*arguments):
    """The command line, with a checkpoint at every measuring point; the second rank dies at the fifth."""

    def dying(out, spec, device, _, progress, ranks, threads):
        def watch(trainer, rows):
            progress(trainer, rows)
            if ranks.rank == 1 and trainer.samples >= 4 * trainer.task.samples_per_epoch:
                os.kill(os.getpid(), signal.SIGKILL)

        return run_in(out, spec, device, 0.0, watch, ranks, threads)

    sys.modules[run_in.__module__].run_in = dying
    sys.exit(cli.main(arguments))


if __name__ == "__main__":
    _die(*sys.argv[1:])
