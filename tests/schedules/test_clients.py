"""One plan in other people's loops: what is trained on, and at which lr, is the plan's table in each of them."""

import os
import socket
import warnings
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader

from sfolib._utils.errors import InputError
from sfolib.schedules import base as s
from sfolib.schedules.adaptive import NormTest
from sfolib.schedules.plan import Plan
from sfolib.schedules.torch import PlanLR, ScheduledBatchSampler

N, EPOCHS = 80, 3
PLAN = Plan(s.exponential(10, 2.0), s.exponential(0.1, 0.5))
STATEFUL = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's
WORKERS = [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3}]


def table(plan=PLAN, epochs=EPOCHS):
    return [(row.batch_size, row.lr) for row in plan.walk(N, epochs)]


def parts(plan=PLAN, loader=None, **options):
    """(sampler, loader, optimizer, scheduler), tied, of a plan object of their own."""
    sampler = ScheduledBatchSampler(N, replace(plan), **options)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    return sampler, DataLoader(range(N), batch_sampler=sampler, **(loader or {})), optimizer, PlanLR(optimizer, sampler)


def lr_of(optimizer):
    return optimizer.param_groups[0]["lr"]


def step(optimizer, scheduler):
    optimizer.step()
    scheduler.step()


@pytest.mark.parametrize("loader", WORKERS)
def test_exactly_len_batches(loader):
    """Case 01, with and without a scheduler."""
    alone = DataLoader(range(N), batch_sampler=ScheduledBatchSampler(N, replace(PLAN)), **loader)
    sizes = [[len(batch) for batch in islice(alone, len(alone))] for _ in range(EPOCHS)]
    assert sizes == [[10] * 8, [20] * 4, [40] * 2]
    _, tied, optimizer, scheduler = parts(loader=loader)
    seen = []
    for _ in range(EPOCHS):
        for _, x in zip(range(len(tied)), tied, strict=False):
            seen.append((len(x), lr_of(optimizer)))
            step(optimizer, scheduler)
    assert seen == table()


@pytest.mark.parametrize("loader", WORKERS[:2])
@pytest.mark.parametrize("made", ["sampler", "plan", "scheduler first"])
def test_other_passes_do_not_move_the_plan(made, loader):
    """Case 08: a pass after every epoch, a look and a pass within."""
    plan, optimizer = replace(PLAN), torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = PlanLR(optimizer, plan, N) if made == "scheduler first" else None
    sampler = ScheduledBatchSampler(N, plan)
    if scheduler is None:
        scheduler = PlanLR(optimizer, sampler) if made == "sampler" else PlanLR(optimizer, plan, N)
    data, seen = DataLoader(range(N), batch_sampler=sampler, **loader), []
    for _ in range(EPOCHS):
        next(iter(data))
        for i, x in enumerate(data):
            seen.append((len(x), lr_of(optimizer)))
            step(optimizer, scheduler)
            if i == 1:
                next(iter(data))
                assert sum(len(x) for x in data) == N
        assert sum(len(x) for x in data) == N
    assert seen == table()


def test_a_loop_that_drifts_raises():
    _, loader, optimizer, scheduler = parts()
    for _ in range(2):
        next(iter(loader))  # left: the second begins the epoch again
        optimizer.step()
        if _ == 0:
            scheduler.step()
    with pytest.raises(InputError, match="batch 1 of iteration 0 has not been handed out"):
        scheduler.step()
    _, loader, optimizer, scheduler = parts()
    for _ in loader:
        optimizer.step()
    with pytest.raises(InputError, match=r"optimizer.step\(\) was called = 8"):
        next(iter(loader))
    sampler, loader, _, _ = parts()
    sampler.set_epoch(2)  # as a loop that goes on in epoch 2 and has not loaded the scheduler
    with pytest.raises(InputError, match="epoch = 2: but the scheduler is in iteration 0"):
        next(iter(loader))
    sampler.set_epoch(0)
    sampler.load_state_dict({"n": N, "seed": 0, "step": 3, "samples": 30})
    with pytest.raises(InputError, match="load its state too"):
        next(iter(loader))


@pytest.mark.parametrize("loader", WORKERS[:2])
@pytest.mark.parametrize("stop", [1, 3, 8, 9, 12, 13])
def test_resume_by_state_and_by_skipping(stop, loader):
    """Case 21 and state_dict without arguments: what prefetching has drawn is left out."""
    sampler, data, optimizer, scheduler = parts(loader=loader)
    taken = 0
    while taken < stop:
        for _ in islice(data, stop - taken):
            taken += 1
            step(optimizer, scheduler)
    states = sampler.state_dict(), scheduler.state_dict()
    starts = (0, 8, 12)
    epoch = sum(start <= stop for start in starts) - 1
    for way in ("state", "skip"):
        sampler, data, optimizer, scheduler = parts(loader=loader)
        if way == "state":
            sampler.load_state_dict(states[0])
        else:
            sampler.set_epoch(epoch)
        scheduler.load_state_dict(states[1])
        seen, batches = [], []
        for each in range(epoch, EPOCHS):
            sampler.set_epoch(each)
            skip = stop - starts[epoch] if way == "skip" and each == epoch else 0
            for x in islice(data, skip, None):
                batches.append(x.tolist())
                seen.append((len(x), lr_of(optimizer)))
                step(optimizer, scheduler)
        assert seen == table()[stop:]
        assert batches == WHOLE_RUN[stop:]


def whole_run():
    sampler = ScheduledBatchSampler(N, replace(PLAN))
    return [batch for _ in range(EPOCHS) for batch in sampler]


WHOLE_RUN = whole_run()


def test_ranks_take_parts_of_the_global_batch():
    """Case 22."""
    for plan in (PLAN, Plan(7, 0.1)):
        whole, *ranks = (
            ScheduledBatchSampler(N, replace(plan), rank=rank, num_replicas=size)
            for rank, size in ((0, 1), (0, 2), (1, 2))
        )
        for _ in range(EPOCHS):
            batches = [list(sampler) for sampler in (whole, *ranks)]
            assert [a + b for a, b in zip(*batches[1:], strict=True)] == batches[0]
    each = ScheduledBatchSampler(N, Plan(10, 0.1), rank=1, num_replicas=2, per_replica=True)
    assert [len(batch) for batch in each] == [10] * 4
    with pytest.raises(InputError, match="too few for 2 ranks"):
        list(ScheduledBatchSampler(3, Plan(2, 0.1), rank=1, num_replicas=2))


def test_the_last_batch_and_multiples():
    sizes = lambda **options: [len(b) for b in ScheduledBatchSampler(21, Plan(10, 0.1), **options)]  # noqa: E731
    assert sizes() == [10, 10, 1]
    assert sizes(min_last_batch=2) == [10, 11]
    assert sizes(drop_last=True) == [10, 10]
    assert sizes(multiple_of=8) == [8, 8, 5]
    sampler = ScheduledBatchSampler(21, PLAN, drop_last=True, epochs=2)
    assert [len(b) for b in sampler] == [10, 10, 20]
    with pytest.raises(InputError, match="leaves no batch"):
        list(sampler)


@pytest.mark.parametrize("loader", WORKERS[:2])
@pytest.mark.parametrize("k", [3, 4])
def test_accumulation(k, loader):
    """Case 09; with k = 3 the last two of an epoch's eight batches have no step of their own."""
    plan = Plan(10, s.exponential(0.1, 0.5, 80), clock="sample")
    sampler = ScheduledBatchSampler(N, plan)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler, samples = PlanLR(optimizer, sampler, accumulate=k), 0
    data = DataLoader(range(N), batch_sampler=sampler, **loader)
    for _ in range(4):
        for i, x in enumerate(data):
            if i % k == 0:
                assert lr_of(optimizer) == plan.at(samples)[1]
            samples += len(x)
            if i % k == k - 1:
                step(optimizer, scheduler)
    untold = PlanLR(optimizer, again := ScheduledBatchSampler(N, replace(plan)))
    for i, _ in enumerate(again):
        if i % 4 == 3:
            step(optimizer, untold)
    with pytest.raises(InputError, match="say accumulate="):
        next(iter(again))


def test_the_batch_of_the_plan_by_micro_batches():
    sampler, loader, optimizer, scheduler = parts(max_micro_batch=16)
    seen, taken = [], 0
    for _ in range(EPOCHS):
        assert len(loader) == len(list(loader))
        for x in loader:
            assert len(x) <= 16
            taken += len(x)
            if taken == scheduler.batch_size:
                seen.append((taken, lr_of(optimizer)))
                step(optimizer, scheduler)
                taken = 0
    assert seen == table()
    assert [len(x) for x in sampler] == [16] * 5


# ------------------------------------------------------------------------------------------------------- rates
def test_a_plan_may_end_at_zero():
    """Case 03; a step at lr 0 is an error."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = PlanLR(optimizer, Plan(10, s.cosine(0.1, 0.0, 5), clock="step"), 50)
    for _ in range(5):
        step(optimizer, scheduler)
    assert lr_of(optimizer) == 0
    with pytest.raises(InputError, match="lr of batch 5"):
        step(optimizer, scheduler)


def test_parameter_groups():
    """Case 10, groups added later, and a reference by number or name."""
    for reference, rates in ((None, [0.02, 0.2]), (0, [0.2, 2.0]), ("body", [0.2, 2.0])):
        weights = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
        groups = [{"params": weights[:1], "lr": 0.01, "name": "body"}, {"params": weights[1:2], "name": "head"}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        scheduler = PlanLR(optimizer, Plan(10, 0.2), N, reference=reference)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(rates)
    optimizer.add_param_group({"params": weights[2:], "lr": 0.05, "name": "late"})
    step(optimizer, scheduler)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 2.0, 1.0])
    with pytest.raises(InputError, match="reference = 'tail'"):
        PlanLR(optimizer, Plan(10, 0.2), N, reference="tail")


def test_a_foreign_state_is_refused_by_name():
    _, _, optimizer, scheduler = parts()
    other = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(InputError, match=r"state = .*must be a PlanLR's"):
        scheduler.load_state_dict(other.state_dict())
    with pytest.raises(InputError, match="makes 80 samples, not 88"):
        scheduler.load_state_dict({"step": 8, "batches": 8, "samples": 88})


def test_warm_up_by_sequential_lr():
    plan = replace(PLAN)
    sampler, optimizer = ScheduledBatchSampler(N, plan), torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=10)
    both = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, PlanLR(optimizer, plan, N)], [10])
    seen = []
    for _ in range(EPOCHS):
        for x in sampler:
            seen.append((len(x), lr_of(optimizer)))
            optimizer.step()
            both.step()
    assert [b for b, _ in seen] == [b for b, _ in table()]
    assert [lr for _, lr in seen[10:]] == pytest.approx([0.1] * 4)  # the plan's clock begins after the warm-up


# ------------------------------------------------------------------------------------------------------- policies
def test_a_look_that_is_not_due_does_not_block():
    """Case 14, and looks that take effect a batch later."""
    statistics = SimpleNamespace(variance=0.0, mean_sqnorm=1.0)
    policy = NormTest(0.5, batch_size=10, lr=0.1, test_interval=4)
    policy.update(10, statistics)
    sampler = ScheduledBatchSampler(N, policy)
    sampler.load_state_dict({"n": N, "seed": 0, "step": 1, "samples": 10})
    batches = iter(DataLoader(range(N), batch_sampler=sampler))
    assert [len(next(batches)) for _ in range(4)] == [10] * 4
    with pytest.raises(InputError, match="lookahead="):
        next(batches)

    policy, sizes = NormTest(0.5, batch_size=10, lr=0.1, test_interval=1), []
    batches = iter(ScheduledBatchSampler(N, policy, lookahead=1))
    following = next(batches)
    while following is not None:
        x, following = following, next(batches, None)
        sizes.append(len(x))
        policy.update(len(x), SimpleNamespace(variance=7.5, mean_sqnorm=1.0) if policy.needs_signal else None)
    assert sizes == [10, 10, 30, 30]


# ------------------------------------------------------------------------------------------------------- clients
@pytest.mark.parametrize("loader", WORKERS)
def test_ignite(loader):
    ignite = pytest.importorskip("ignite.engine")
    _, data, optimizer, scheduler = parts(loader=loader)
    seen = []

    def update(_, x):
        seen.append((len(x), lr_of(optimizer)))
        step(optimizer, scheduler)

    ignite.Engine(update).run(data, max_iters=14)
    assert seen == table()


@STATEFUL
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_stateful_dataloader(tied, workers):
    """Case 07."""
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def make():
        sampler, _, optimizer, scheduler = parts()
        if not tied:
            sampler, scheduler = ScheduledBatchSampler(N, replace(PLAN)), None
        return torchdata.StatefulDataLoader(range(N), batch_sampler=sampler, num_workers=workers), optimizer, scheduler

    def train(loader, optimizer, scheduler, epochs):
        for _ in range(epochs):
            for x in loader:
                yield x.tolist()
                if scheduler:
                    step(optimizer, scheduler)

    for stop, epochs in ((3, 3), (8, 3), (10, 2)):
        loader, optimizer, scheduler = make()
        running = train(loader, optimizer, scheduler, EPOCHS)
        for _ in range(stop):
            next(running)
        if scheduler:
            step(optimizer, scheduler)
        state, rate = loader.state_dict(), scheduler and scheduler.state_dict()
        again = make()
        again[0].load_state_dict(state)
        if scheduler:
            again[2].load_state_dict(rate)
        assert list(train(*again, epochs)) == WHOLE_RUN[stop:]


@pytest.mark.parametrize("loader", WORKERS[:2])
def test_accelerate(loader):
    accelerate = pytest.importorskip("accelerate")
    _, data, optimizer, scheduler = parts(loader=loader)
    accelerator = accelerate.Accelerator(cpu=True)
    data, optimizer, scheduler = accelerator.prepare(data, optimizer, scheduler)
    seen = []
    for _ in range(EPOCHS):
        for x in data:
            seen.append((len(x), lr_of(optimizer)))
            step(optimizer, scheduler)
        assert sum(len(x) for x in data) == N
    assert seen == table()
    accelerator.free_memory()
    accelerate.state.AcceleratorState._reset_state(True)


def _lightning(path=None, save=None, max_steps=-1, stateful=False, workers=0, accumulate=1):
    lightning = pytest.importorskip("lightning")
    seen = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self.drawer = ScheduledBatchSampler(N, replace(PLAN))

        def training_step(self, x, _):
            seen.append((x.tolist(), lr_of(self.trainer.optimizers[0])))
            return self.weight.sum()

        def train_dataloader(self):
            kind = DataLoader
            if stateful:
                kind = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
            return kind(range(N), batch_sampler=self.drawer, num_workers=workers)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD([self.weight], 0.1)
            scheduler = PlanLR(optimizer, self.drawer, accumulate=accumulate)
            return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = save and lightning.pytorch.callbacks.ModelCheckpoint(save, "state", every_n_train_steps=max_steps)
        trainer = lightning.Trainer(
            max_epochs=EPOCHS, max_steps=max_steps, accelerator="cpu", logger=False, enable_checkpointing=bool(save),
            enable_progress_bar=False, enable_model_summary=False, accumulate_grad_batches=accumulate,
            callbacks=[saved] if saved else [],
        )  # fmt: skip
        trainer.fit(Module(), ckpt_path=path)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning(workers):
    """Case 02."""
    seen = _lightning(workers=workers)
    assert [(len(x), lr) for x, lr in seen] == table()
    assert [x for x, _ in seen] == WHOLE_RUN


def test_lightning_accumulates():
    seen = _lightning(accumulate=2)
    assert [(len(x), lr) for x, lr in seen] == table()


@STATEFUL
@pytest.mark.parametrize("stop", [3, 10])
def test_lightning_goes_on_from_a_checkpoint(tmp_path, stop):
    _lightning(save=tmp_path, max_steps=stop, stateful=True)
    seen = _lightning(tmp_path / "state.ckpt", stateful=True)
    assert [x for x, _ in seen] == WHOLE_RUN[stop:]
    assert [(len(x), lr) for x, lr in seen] == table()[stop:]


@STATEFUL
@pytest.mark.parametrize(("stop", "stateful"), [(3, False), (8, True)])
def test_where_lightning_cannot_go_on_it_is_told(tmp_path, stop, stateful):
    """A plain loader begins the epoch again; after an epoch's last batch Lightning skips the next one."""
    _lightning(save=tmp_path, max_steps=stop, stateful=stateful)
    with pytest.raises(InputError, match=r"StatefulDataLoader|the scheduler is in iteration"):
        _lightning(tmp_path / "state.ckpt", stateful=stateful)


@pytest.mark.parametrize("k", [1, 2])
def test_transformers_trainer(tmp_path, k):
    transformers = pytest.importorskip("transformers")

    def train(output, resume=None):
        seen = []

        class Model(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(1))

            def forward(self, i):
                if self.training:
                    seen.append((i.tolist(), lr_of(trainer.optimizer)))
                return {"loss": self.weight.sum() + 0 * i.sum()}

        class Trainer(transformers.Trainer):
            def get_train_dataloader(self):
                return self.accelerator.prepare(DataLoader(DATA, batch_sampler=sampler))

        model, sampler = Model(), ScheduledBatchSampler(N, replace(PLAN), epochs=EPOCHS)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        arguments = transformers.TrainingArguments(
            str(output), num_train_epochs=1, gradient_accumulation_steps=k, save_steps=1, report_to=[], use_cpu=True,
            disable_tqdm=True, remove_unused_columns=False, logging_strategy="no",
        )  # fmt: skip
        scheduler = PlanLR(optimizer, sampler, accumulate=k)
        trainer = Trainer(model, arguments, train_dataset=DATA, optimizers=(optimizer, scheduler))
        trainer.train(resume_from_checkpoint=resume)
        return seen

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = train(tmp_path / "a")
        assert [(len(i), lr) for i, lr in whole] == table()
        assert [i for i, _ in whole] == WHOLE_RUN
        for stop in (2, 5, 6):
            resumed = train(tmp_path / f"b{stop}", str(tmp_path / "a" / f"checkpoint-{stop}"))
            assert resumed == whole[k * stop :]


DATA = [{"i": i} for i in range(N)]


# ------------------------------------------------------------------------------------------------- two processes
def _process(rank, port, client, out):
    here = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in here.items()})
    seen = []
    if client == "ddp":
        dist.init_process_group("gloo")
        _, loader, optimizer, scheduler = parts()
        model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1))
        model(torch.ones(1, 1)).sum().backward()
    else:
        import accelerate

        accelerator = accelerate.Accelerator(cpu=True)
        _, loader, *_ = parts()
        try:
            next(iter(loader))
        except InputError:
            seen.append("refused")
        _, loader, optimizer, scheduler = parts(interleave=True)
        loader, optimizer, scheduler = accelerator.prepare(loader, optimizer, scheduler)
    for _ in range(EPOCHS):
        for x in loader:
            seen.append((x.tolist(), lr_of(optimizer)))
            step(optimizer, scheduler)
    torch.save(seen, out / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("client", ["ddp", "accelerate"])
def test_two_processes(tmp_path, client, free_port):
    if client == "accelerate":
        pytest.importorskip("accelerate")
    mp.spawn(_process, (free_port, client, tmp_path), 2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    if client == "accelerate":
        assert [first.pop(0), second.pop(0)] == ["refused"] * 2
    assert [a + b for (a, _), (b, _) in zip(first, second, strict=True)] == WHOLE_RUN
    for seen in (first, second):
        assert [lr for _, lr in seen] == [lr for _, lr in table()]


@pytest.fixture
def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
