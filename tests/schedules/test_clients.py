"""One plan in other people's loops: what is trained on, and at which lr, is the plan's table in each of them."""

import importlib
import math
import os
import socket
import sys
import traceback
import warnings
from itertools import islice
from types import SimpleNamespace

import numpy as np
import policies_in_clients as policies
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
from sfolib.schedules.torch import PlanLR, ScheduledBatchSampler, StreamDataset

pytestmark = pytest.mark.long

N, EPOCHS = 80, 3
PLAN = Plan(s.exponential(10, 2.0), s.exponential(0.1, 0.5))
STATEFUL = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata's
WORKERS = [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True, "prefetch_factor": 3}]


def table(plan=PLAN, epochs=EPOCHS):
    return [(row.batch_size, row.lr) for row in plan.walk(N, epochs)]


def parts(plan=PLAN, loader=None, **options):
    """(sampler, loader, optimizer, scheduler), tied, of a plan object of their own."""
    sampler = ScheduledBatchSampler(N, plan.model_copy(), **options)
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
    alone = DataLoader(range(N), batch_sampler=ScheduledBatchSampler(N, PLAN.model_copy()), **loader)
    sizes = [[len(batch) for batch in islice(alone, len(alone))] for _ in range(EPOCHS)]
    assert sizes == [[10] * 8, [20] * 4, [40] * 2]
    _, tied, optimizer, scheduler = parts(loader=loader)
    seen = []
    for _ in range(EPOCHS):
        for _, x in zip(range(len(tied)), tied, strict=False):
            seen.append((len(x), lr_of(optimizer)))
            step(optimizer, scheduler)
    assert seen == table()


@pytest.mark.parametrize(
    ("made", "loader"), [("sampler", WORKERS[0]), ("plan", WORKERS[1]), ("scheduler first", WORKERS[0])]
)
def test_other_passes_do_not_move_the_plan(made, loader):
    """Case 08: a pass after every epoch, a look and a pass within."""
    plan, optimizer = PLAN.model_copy(), torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
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


@pytest.mark.parametrize(
    ("stop", "loader"), [*((stop, WORKERS[0]) for stop in (1, 3, 8, 9, 12, 13)), (3, WORKERS[1]), (12, WORKERS[1])]
)
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
    sampler = ScheduledBatchSampler(N, PLAN.model_copy())
    return [batch for _ in range(EPOCHS) for batch in sampler]


WHOLE_RUN = whole_run()


def test_ranks_take_parts_of_the_global_batch():
    """Case 22."""
    for plan in (PLAN, Plan(7, 0.1)):
        whole, *ranks = (
            ScheduledBatchSampler(N, plan.model_copy(), rank=rank, num_replicas=size)
            for rank, size in ((0, 1), (0, 2), (1, 2))
        )
        for _ in range(EPOCHS):
            batches = [list(sampler) for sampler in (whole, *ranks)]
            assert [a + b for a, b in zip(*batches[1:], strict=True)] == batches[0]
    each = ScheduledBatchSampler(N, Plan(10, 0.1), rank=1, num_replicas=2, per_replica=True)
    assert [len(batch) for batch in each] == [10] * 4
    with pytest.raises(InputError, match="too few for 2 ranks"):
        next(iter(ScheduledBatchSampler(3, Plan(2, 0.1), rank=1, num_replicas=2)))


def test_the_last_batch_and_multiples():
    sizes = lambda **options: [len(b) for b in ScheduledBatchSampler(21, Plan(10, 0.1), **options)]  # noqa: E731
    assert sizes() == [10, 10, 1]
    assert sizes(min_last_batch=2) == [10, 11]
    assert sizes(drop_last=True) == [10, 10]
    assert sizes(multiple_of=8) == [8, 8, 5]
    assert sizes(multiple_of="ranks", rank=0, num_replicas=3) == [3, 3, 1]
    sampler = ScheduledBatchSampler(21, PLAN, drop_last=True, epochs=2)
    assert [len(b) for b in sampler] == [10, 10, 20]
    with pytest.raises(InputError, match="leaves no batch"):
        list(sampler)


@pytest.mark.parametrize(("k", "loader"), [(3, WORKERS[0]), (4, WORKERS[0]), (3, WORKERS[1])])
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
    untold = PlanLR(optimizer, again := ScheduledBatchSampler(N, plan.model_copy()))
    for i, _ in enumerate(again):
        if i % 4 == 3:
            step(optimizer, untold)
    with pytest.raises(InputError, match="say accumulate="):
        next(iter(again))


def test_steps_that_a_scaler_skips():
    plan = Plan(10, s.exponential(0.1, 0.5), "step")
    _, loader, optimizer, scheduler = parts(plan)
    (weight,), scaler = optimizer.param_groups[0]["params"], torch.amp.GradScaler("cpu", init_scale=4.0)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(None))
    for i, x in enumerate(loader):
        assert (len(x), lr_of(optimizer)) == plan.at(i)
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (math.inf if i in (1, 3, 4, 7) else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
    assert len(seen) == 4
    assert lr_of(optimizer) == plan.lr(8)


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


def test_set_epoch_after_resuming_and_another_pass():
    sampler, loader, optimizer, scheduler = parts()
    scheduler.load_state_dict({"step": 8, "batches": 8, "samples": 80})
    sampler.set_epoch(1)
    for x in loader:
        assert len(x) == 20
        step(optimizer, scheduler)
    assert sum(len(x) for x in loader) == N  # of epoch 2, though the loop has not said so yet
    sampler.set_epoch(2)
    assert [len(x) for x in loader] == [40, 40]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_a_stream(workers):
    """In order, on one rank and on two, on after a resume; a stream that is too short is named."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(N + 5))

    def batches(**options):
        sampler = ScheduledBatchSampler(N, PLAN.model_copy(), shuffle=False, **options)
        loader = DataLoader(StreamDataset(Stream()), batch_sampler=sampler, num_workers=workers)
        return sampler, [x.tolist() for _ in range(EPOCHS) for x in loader]

    sampler, whole = batches()
    assert [len(x) for x in whole] == [b for b, _ in table()]
    assert [i for x in whole for i in x] == [*range(N)] * EPOCHS
    ranks = [batches(rank=rank, num_replicas=2)[1] for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    sampler.load_state_dict({"n": N, "seed": 0, "step": 10, "samples": 120})
    loader = DataLoader(StreamDataset(Stream()), batch_sampler=sampler, num_workers=workers)
    assert [x.tolist() for x in loader] == whole[10:12]
    for stream, plan, named in ((range(9), {"shuffle": False}, "n = 10"), (range(N), {}, "shuffle=False")):
        sampler = ScheduledBatchSampler(N, PLAN.model_copy(), **plan)
        with pytest.raises(InputError, match=named):
            next(iter(DataLoader(StreamDataset(stream), batch_sampler=sampler)))
    sampler = ScheduledBatchSampler(N, PLAN.model_copy(), shuffle=False)
    with pytest.raises(InputError, match="num_workers = 2: must be 0 or 1"):
        next(iter(DataLoader(StreamDataset(Stream()), batch_sampler=sampler, num_workers=2)))


def _rows(loader, schedulers, k=1, epochs=EPOCHS):
    """(batch size, lr of each optimizer), the step behind it, of each batch."""
    rows = []
    for _ in range(epochs):
        for i, x in enumerate(loader):
            rows.append((len(x), *(lr_of(scheduler.optimizer) for scheduler in schedulers)))
            for scheduler in schedulers if i % k == k - 1 else ():
                step(scheduler.optimizer, scheduler)
    return rows


def sgd():
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)


@pytest.mark.parametrize("made", ["plan", "sampler", "plan, a sampler of its own"])
def test_a_second_run_over_the_same_loader(made):
    """As in a loop over seeds: it begins the plan again, and a scheduler of the first must not step."""
    plan = PLAN.model_copy()
    own, schedulers = made.endswith("own"), []
    sampler = None if own else ScheduledBatchSampler(N, plan)
    for _ in range(2):
        schedulers.append(PlanLR(sgd(), sampler) if made == "sampler" else PlanLR(sgd(), plan, N))
        if own:
            sampler = ScheduledBatchSampler(N, plan)
        assert _rows(sampler, schedulers[-1:]) == table()
    if not own:
        schedulers[0].optimizer.step()
        with pytest.raises(InputError, match="another PlanLR"):
            schedulers[0].step()


@pytest.mark.parametrize("made", ["plan", "sampler", "schedulers first"])
def test_two_optimizers(made):
    """Both count the sampler's batches, leftovers of accumulation too; again in a second run."""
    plan = PLAN.model_copy()
    options = {"drop_last": True, "multiple_of": 8}
    sampler = ScheduledBatchSampler(N, plan, **options) if made != "schedulers first" else None
    for _ in range(2):
        both = [PlanLR(sgd(), *([sampler] if made == "sampler" else [plan, N]), accumulate=2) for _ in range(2)]
        sampler = sampler or ScheduledBatchSampler(N, plan, **options)
        wanted = [(8, 0.1)] * 10 + [(16, 0.05)] * 5 + [(40, 0.025)] * 2
        assert _rows(sampler, both, 2) == [(b, lr, lr) for b, lr in wanted]


def test_a_run_that_was_left_before_its_first_step():
    plan = PLAN.model_copy()
    sampler, left = ScheduledBatchSampler(N, plan), PlanLR(sgd(), plan, N)
    next(iter(sampler))
    assert _rows(sampler, [PlanLR(sgd(), plan, N)]) == table()
    assert left.batches == 0


def test_steps_that_are_counted_wrong_are_told():
    plan = PLAN.model_copy()
    sampler = ScheduledBatchSampler(N, plan)
    with pytest.raises(InputError, match=r"must be a Plan, a policy, or .* \(its batch_sampler\)"):
        PlanLR(sgd(), DataLoader(range(N), batch_sampler=sampler))
    with pytest.raises(InputError, match="samples_per_epoch = 8: must be 80"):
        _rows(sampler, [PlanLR(sgd(), plan, len(sampler))])
    _, loader, optimizer, scheduler = parts()
    for _ in loader:
        optimizer.step()
    with pytest.raises(InputError, match=r"optimizer.step\(\) was called = 8: .*not once an epoch"):
        scheduler.step()
    policy = NormTest(0.5, batch_size=10, lr=0.1, test_interval=10, max_batch_size=10)
    sampler = ScheduledBatchSampler(N, policy, rank=0, num_replicas=2)
    optimizer, batches = sgd(), iter(sampler)
    scheduler = PlanLR(optimizer, sampler)
    for told in (sampler.taken if next(batches) else 0, len(next(batches))):
        optimizer.step()
        if policy.step == 0:
            with pytest.raises(InputError, match="update the policy, then"):
                scheduler.step()
        policy.update(told)
        scheduler.step()
    with pytest.raises(InputError, match=r"samples of the policy = 15: after 2 steps must be 20: .*sampler\.taken"):
        next(batches)


def test_an_endless_loader():
    """Right from batch to batch; a batch that is drawn over an epoch's end, before the last step, is told."""

    def endless(loader):
        while True:
            yield from loader

    _, loader, _, scheduler = parts()
    assert _rows(islice(endless(loader), 14), [scheduler], epochs=1) == table()
    _, loader, _, scheduler = parts()
    batches = endless(loader)
    next(batches)
    with pytest.raises(InputError, match=r"counted = 7: in an iteration of 8 .*before the next"):
        _rows(batches, [scheduler])


@pytest.mark.parametrize("way", ["state", "skip"])
def test_resumed_in_an_epochs_last_batches(way):
    """With fewer left than one accumulates no step of the epoch follows; the next one is the plan's all the same."""
    runs, states = [], ()
    for resumed in (False, True):
        sampler, _, optimizer, scheduler = parts()
        scheduler.accumulate = 3
        if resumed:
            scheduler.load_state_dict(states[1])
            if way == "state":
                sampler.load_state_dict(states[0])
        rows = []
        for epoch in range(2):
            skip = 6 if resumed and way == "skip" and epoch == 0 else 0
            for i, x in enumerate(islice(sampler, skip, None)):
                rows.append((x, lr_of(optimizer)))
                if i % 3 == 2:
                    step(optimizer, scheduler)
                    if (epoch, i) == (0, 5):
                        states = sampler.state_dict(), scheduler.state_dict()
        runs.append(rows)
    assert len(runs[1]) == 6
    assert runs[1] == runs[0][6:]


def test_numpy_integers():
    two = np.int64(2)
    sampler = ScheduledBatchSampler(np.int64(N), PLAN.model_copy(), rank=np.int64(1), num_replicas=two)
    sampler.set_epoch(np.int64(1))
    assert [len(x) for x in sampler] == [10] * 4
    assert sampler.state_dict(two) == {"n": N, "seed": 0, "step": 2, "samples": 20}
    ScheduledBatchSampler(N, NormTest(0.5, batch_size=two, lr=0.1), lookahead=two)


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


def test_a_run_goes_on_with_a_group_that_was_added():
    """As it was, or where the group is there from the start and would be the reference, refused."""
    late = lambda: {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.5}  # noqa: E731
    states = None
    for from_the_start in (False, False, True):
        optimizer = sgd()
        if from_the_start:
            optimizer.add_param_group(late())
        scheduler = PlanLR(optimizer, Plan(10, s.exponential(0.2, 0.5), "step"), N)
        if not from_the_start:
            optimizer.add_param_group(late())
        if states is None:
            step(optimizer, scheduler)
            states = optimizer.state_dict(), scheduler.state_dict()
            continue
        optimizer.load_state_dict(states[0])
        if from_the_start:
            with pytest.raises(InputError, match=r"over the plan's = \[0.2, 1.0\]: must be \[1.0, 5.0\] as saved"):
                scheduler.load_state_dict(states[1])
            continue
        scheduler.load_state_dict(states[1])
        step(optimizer, scheduler)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.25])


def test_a_foreign_state_is_refused_by_name():
    _, _, optimizer, scheduler = parts()
    other = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(InputError, match=r"state = .*must be a PlanLR's"):
        scheduler.load_state_dict(other.state_dict())
    with pytest.raises(InputError, match="makes 80 samples, not 88"):
        scheduler.load_state_dict({"step": 8, "batches": 8, "samples": 88})


@pytest.mark.parametrize("stop", [None, 3, 11, 13])
def test_warm_up_by_sequential_lr(stop):
    """The plan's clock begins after the warm-up; the sampler's is the run's, whatever else is read, resumed or not."""

    def make():
        _, loader, optimizer, scheduler = parts()
        warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.25, total_iters=10)
        return loader, optimizer, torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, scheduler], [10])

    (loader, optimizer, both), seen, skip = make(), [], 0
    while len(seen) < 14:
        for x in islice(loader, skip, None):
            seen.append((len(x), lr_of(optimizer)))
            optimizer.step()
            both.step()
            if len(seen) == stop:
                states = optimizer.state_dict(), both.state_dict()
                loader, optimizer, both = make()
                optimizer.load_state_dict(states[0])
                both.load_state_dict(states[1])
                break
        skip = stop - (0 if stop < 8 else 8 if stop < 12 else 12) if len(seen) == stop else 0
        assert sum(len(x) for x in loader) == N
    assert [b for b, _ in seen] == [b for b, _ in table()]
    assert [lr for _, lr in seen] == pytest.approx([0.025 + 0.0075 * i for i in range(10)] + [0.1] * 4)


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
def _ignite(loader, stop=14, states=None, k=1, **how):
    """(samples, lr) of each batch from the states on, and with `stop` below the run's batches the states then."""
    ignite = pytest.importorskip("ignite.engine")
    epochs = EPOCHS if how else 1
    sampler, data, optimizer, scheduler = parts(loader=loader, epochs=epochs)
    scheduler.accumulate = k
    if states:
        sampler.load_state_dict(states[0])
        scheduler.load_state_dict(states[1])
    seen = []

    def update(engine, x):
        seen.append((x.tolist(), lr_of(optimizer)))
        if engine.state.iteration % k == 0:
            step(optimizer, scheduler)

    ignite.Engine(update).run(data, **(how or {"max_iters": stop}))
    return seen if states or stop == 14 else (sampler.state_dict(), scheduler.state_dict())


@pytest.mark.parametrize("loader", WORKERS[::2])
def test_ignite(loader):
    seen = _ignite(loader)
    assert [(len(x), lr) for x, lr in seen] == table()
    assert [x for x, _ in seen] == WHOLE_RUN


def test_ignite_by_epochs():
    seen = _ignite({}, max_epochs=1)
    assert [(len(x), lr) for x, lr in seen] == table()


def test_ignite_accumulates():
    assert [(len(x), lr) for x, lr in _ignite({}, k=2)] == in_steps_of(2)


@pytest.mark.parametrize("stop", [3, 8, 10])
def test_ignite_goes_on(stop):
    """From the states of sampler and scheduler."""
    seen = _ignite({}, states=_ignite({}, stop), stop=14 - stop)
    assert [x for x, _ in seen] == WHOLE_RUN[stop:]
    assert [(len(x), lr) for x, lr in seen] == table()[stop:]


@STATEFUL
@pytest.mark.parametrize(("tied", "workers"), [(False, 0), (True, 0), (True, 2)])
def test_stateful_dataloader(tied, workers):
    """Case 07."""
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def make():
        sampler, _, optimizer, scheduler = parts()
        if not tied:
            sampler, scheduler = ScheduledBatchSampler(N, PLAN.model_copy()), None
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


def _stateful(k=1):
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    sampler, _, optimizer, scheduler = parts()
    scheduler.accumulate, seen = k, []
    for _ in range(EPOCHS):
        for i, x in enumerate(stateful(range(N), batch_sampler=sampler)):
            seen.append((x.tolist(), lr_of(optimizer)))
            if i % k == k - 1:
                step(optimizer, scheduler)
    return seen


@STATEFUL
def test_stateful_dataloader_accumulates():
    seen = _stateful(2)
    assert [(len(x), lr) for x, lr in seen] == in_steps_of(2)
    assert [x for x, _ in seen] == WHOLE_RUN


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


def test_a_scheduler_of_a_prepared_optimizer():
    accelerate = pytest.importorskip("accelerate")
    sampler, data, optimizer, _ = parts()
    accelerator = accelerate.Accelerator(cpu=True)
    data, optimizer = accelerator.prepare(data, sgd())
    assert _rows(data, [PlanLR(optimizer, sampler)]) == table()
    accelerator.free_memory()
    accelerate.state.AcceleratorState._reset_state(True)


def _accelerate(k=1, stop=None, overflows=(), plan=PLAN, folder=None):
    """(batch size, lr) of each batch; after `stop` of them saved, loaded into new objects and gone on with."""
    accelerate = pytest.importorskip("accelerate")
    seen = []

    def make():
        accelerate.state.AcceleratorState._reset_state(True)
        accelerate.state.GradientState._reset_state()
        accelerator, model = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=k), nn.Linear(1, 1)
        if overflows:
            accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        sampler = ScheduledBatchSampler(N, plan.model_copy())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        objects = (
            model,
            optimizer,
            DataLoader(range(N), batch_sampler=sampler),
            PlanLR(optimizer, sampler, accumulate=k),
        )
        return accelerator, *accelerator.prepare(*objects)

    accelerator, model, optimizer, loader, scheduler = make()
    batches = [len([row for row in plan.walk(N, EPOCHS) if row.epoch == epoch]) for epoch in range(EPOCHS)]
    epoch = taken = 0
    while epoch < EPOCHS:
        for x in accelerator.skip_first_batches(loader, taken) if taken else loader:
            with accelerator.accumulate(model):
                seen.append((len(x), lr_of(optimizer)))
                taken += 1
                loss = model(x.float()[:, None]).mean()
                accelerator.backward(loss * (math.inf if len(seen) in overflows else 1.0))
                step(optimizer, scheduler)
                optimizer.zero_grad()
            if len(seen) == stop:
                accelerator.save_state(folder)
                accelerator, model, optimizer, loader, scheduler = make()
                accelerator.load_state(folder)
                break
        if taken == batches[epoch]:
            epoch, taken = epoch + 1, 0
    accelerator.free_memory()
    accelerate.state.AcceleratorState._reset_state(True)
    return seen


def in_steps_of(k):
    """The table, where k batches of an epoch (at its end, what is left) go into a step at the lr of the first."""
    rows, seen = [*PLAN.walk(N, EPOCHS)], []
    for epoch in range(EPOCHS):
        of_epoch = [row for row in rows if row.epoch == epoch]
        seen += [(row.batch_size, of_epoch[i // k * k].lr) for i, row in enumerate(of_epoch)]
    return seen


@pytest.mark.parametrize("k", [2, 3])
def test_accelerate_accumulates(k):
    assert _accelerate(k) == in_steps_of(k)


@pytest.mark.parametrize(("k", "stop"), [(1, 2), (1, 8), (1, 10), (2, 4)])
def test_accelerate_goes_on(k, stop, tmp_path):
    """skip_first_batches, at an epoch's end and inside one."""
    assert _accelerate(k, stop, folder=tmp_path) == in_steps_of(k)


def test_accelerate_skips_steps():
    """A step that its GradScaler skips does not reach the scheduler, which counts it with the next."""
    plan = Plan(10, s.exponential(0.1, 0.5), "step")
    wanted = [row.lr for row in plan.walk(N, EPOCHS)]
    for skipped in (0, 3, 4):  # the lr stays for the step that follows
        wanted[skipped + 1] = wanted[skipped]
    assert [lr for _, lr in _accelerate(plan=plan, overflows=(1, 4, 5))] == wanted


def _lightning(path=None, save=None, max_steps=-1, stateful=False, workers=0, accumulate=1, **options):
    lightning = pytest.importorskip("lightning")
    seen = []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(3))
            self.drawer = ScheduledBatchSampler(N, PLAN.model_copy())

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
            callbacks=[saved] if saved else [], **options,
        )  # fmt: skip
        trainer.fit(Module(), ckpt_path=path)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_lightning(workers):
    """Case 02."""
    seen = _lightning(workers=workers)
    assert [(len(x), lr) for x, lr in seen] == table()
    assert [x for x, _ in seen] == WHOLE_RUN


@pytest.mark.parametrize("k", [2, 3])
def test_lightning_accumulates(k):
    seen = _lightning(accumulate=k)
    assert [(len(x), lr) for x, lr in seen] == in_steps_of(k)


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


def _trainer(output=None, k=1, resume=None, save=1, **options):
    transformers = pytest.importorskip("transformers")
    seen = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, i):
            if self.training:
                seen.append((i.tolist(), lr_of(optimizer)))
            return {"loss": self.weight.sum() + 0 * i.sum()}

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(DataLoader(DATA, batch_sampler=sampler))

    model, sampler = Model(), ScheduledBatchSampler(N, PLAN.model_copy(), epochs=EPOCHS, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = PlanLR(optimizer, sampler, accumulate=k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            str(output), num_train_epochs=1, gradient_accumulation_steps=k, report_to=[], use_cpu=True,
            save_strategy="steps" if output else "no", save_steps=save, disable_tqdm=True, remove_unused_columns=False,
            logging_strategy="no",
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=DATA, optimizers=(optimizer, scheduler))
        trainer.train(resume_from_checkpoint=resume)
    return seen


@pytest.fixture(scope="module", params=[1, 3])
def whole_trainer(request, tmp_path_factory):
    """(batches to a step, folder with a checkpoint of each step, what was seen)"""
    folder = tmp_path_factory.mktemp("whole")
    return request.param, folder, _trainer(folder, request.param)


def test_transformers_trainer(whole_trainer):
    """In steps of one batch, and of three, of the whole run: Trainer has one epoch."""
    k, _, seen = whole_trainer
    lrs = [lr for _, lr in table()]
    assert [lr for _, lr in seen] == [lrs[i // k * k] for i in range(14)]
    assert [i for i, _ in seen] == WHOLE_RUN


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_transformers_trainer_goes_on(whole_trainer, stop, tmp_path):
    k, folder, seen = whole_trainer
    assert _trainer(tmp_path, k, str(folder / f"checkpoint-{stop}"), save=99) == seen[k * stop :]


DATA = [{"i": i} for i in range(N)]


# ------------------------------------------------------------------------------------------- policies in clients
@pytest.mark.parametrize("kind", policies.POLICIES)
def test_policy_in_lightning(kind):
    policies.check(policies.lightning(kind), policies.plain(kind))


@pytest.mark.parametrize("kind", policies.POLICIES)
def test_policy_in_transformers_trainer(kind, tmp_path):
    policies.check(policies.trainer(kind, tmp_path), policies.plain(kind))


@pytest.mark.parametrize("kind", policies.POLICIES)
def test_policy_in_accelerate(kind):
    policies.check(policies.accelerated(kind), policies.plain(kind))


@pytest.mark.parametrize("stop", [3, 5])  # the third step's look is not yet in the fourth's batch; 5: an epoch's end
def test_policy_goes_on(stop, tmp_path):
    wanted = policies.plain("norm test")
    assert [len(x) for x, _ in wanted[2:6]] == [14, 14, 5, 16]
    policies.lightning("norm test", stop, save=tmp_path)
    policies.check(policies.lightning("norm test", path=tmp_path / "state.ckpt"), wanted[stop:])
    policies.trainer("norm test", tmp_path / "a", stop)
    found = policies.trainer("norm test", tmp_path / "b", resume=str(tmp_path / "a" / f"checkpoint-{stop}"))
    policies.check(found, wanted[stop:])
    policies.check(policies.accelerated("norm test", tmp_path / "c", stop), wanted[stop:])
    with pytest.raises(InputError, match="ignore_data_skip = False"):
        policies.trainer(
            "norm test", tmp_path / "b", resume=str(tmp_path / "a" / f"checkpoint-{stop}"), ignore_data_skip=False
        )


def test_policy_with_a_worker_that_prefetches(tmp_path):
    wanted = policies.plain("norm test", ahead=3)
    policies.check(policies.lightning("norm test", workers=1, options={"lookahead": 3}), wanted)
    policies.check(policies.trainer("norm test", tmp_path, workers=1, save_strategy="no"), wanted)
    policies.check(policies.accelerated("norm test", workers=1), wanted)


def test_policy_with_accumulation_is_refused(tmp_path):
    for run in (
        lambda: policies.lightning("losses", accumulate_grad_batches=2),
        lambda: policies.trainer("losses", tmp_path, gradient_accumulation_steps=2),
        lambda: policies.accelerated("losses", gradient_accumulation_steps=2),
    ):
        with pytest.raises(InputError, match="accumulated batches = 2: must be 1"):
            run()


def test_callbacks_say_what_they_need():
    looks = pytest.importorskip("sfolib.integrations.looks")
    sampler = ScheduledBatchSampler(N, NormTest(0.5, batch_size=10, lr=0.1))
    for arguments, named in (
        ((ScheduledBatchSampler(N, PLAN),), "must be of a policy"),
        ((sampler,), "signal = None: is needed: NormTest looks at 'gradient_statistics', or loss_fn"),
    ):
        with pytest.raises(InputError, match=named):
            looks.Looks(*arguments)
    one = looks.Looks(sampler := ScheduledBatchSampler(N, NormTest(0.5, batch_size=1, lr=0.1)), nn.functional.mse_loss)
    next(iter(sampler))
    with pytest.raises(InputError, match="samples of the first look = 1"):
        one.before(nn.Linear(1, 1), (torch.ones(1, 1), torch.ones(1, 1)))


@pytest.mark.parametrize("client", ["lightning", "transformers", "accelerate"])
def test_a_missing_client_is_named_with_the_extra(client, monkeypatch):
    for name in [
        name for name in sys.modules if name.split(".")[0] == client or name.endswith(f"integrations.{client}")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(ImportError, match=rf"needs {client}.*pip install 'sfolib\[clients\]'"):
        importlib.import_module(f"sfolib.integrations.{client}")


# ------------------------------------------------------------------------------------------------- two processes
def _by_hand():
    _, loader, optimizer, scheduler = parts()
    nn.parallel.DistributedDataParallel(nn.Linear(1, 1))(torch.ones(1, 1)).sum().backward()
    return _train(loader, optimizer, scheduler)


def _train(loader, optimizer, scheduler):
    seen = []
    for _ in range(EPOCHS):
        for x in loader:
            seen.append((x.tolist(), lr_of(optimizer)))
            step(optimizer, scheduler)
    return seen


def _prepared(split_batches):
    accelerate = pytest.importorskip("accelerate")
    from sfolib.integrations.accelerate import prepare

    config = accelerate.DataLoaderConfiguration(split_batches=split_batches)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=config)
    _, loader, *_ = parts()
    with pytest.raises(InputError, match="interleave=True for a loader that `prepare` gets"):
        next(iter(loader))
    with pytest.raises(InputError, match="interleave = False"):
        prepare(accelerator, loader)
    _, *objects = parts(interleave=True)
    return _train(*(prepare if split_batches else accelerate.Accelerator.prepare)(accelerator, *objects))


CLIENTS = {
    "ddp": _by_hand,
    "accelerate": lambda: _prepared(False),
    "accelerate, split_batches": lambda: _prepared(True),
    "lightning": lambda: _lightning(strategy="ddp", devices=2, use_distributed_sampler=False),
    "trainer": lambda: _trainer(interleave=True),
    "torchdata": _stateful,
    "ignite": lambda: _ignite({}),
}
EVEN = {"n": 40, "options": {"multiple_of": "ranks"}}  # DDP averages ranks equally
DDP = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False}
DEALT = EVEN | {"options": EVEN["options"] | {"interleave": True}}
POLICY_CLIENTS = {
    "policy in lightning": lambda: policies.lightning("norm test", **EVEN, **DDP),
    "policy in trainer": lambda: policies.trainer("norm test", None, save_strategy="no", **DEALT),
    "policy in accelerate": lambda: policies.accelerated("norm test", **DEALT),
}


def _process(rank, port, out):
    here = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    here |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in here.items()})
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    for client, run in (CLIENTS | POLICY_CLIENTS).items():
        if "accelerate.state" in sys.modules:
            sys.modules["accelerate.state"].AcceleratorState._reset_state(True)
        try:
            seen = run()
        except (Exception, pytest.skip.Exception) as error:
            seen = "".join(traceback.format_exception(error))
        torch.save(seen, out / f"{client} {rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """One pair of processes for all clients; forked, since importing them takes longer than what they do."""
    out = tmp_path_factory.mktemp("two")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    processes = [mp.get_context("fork").Process(target=_process, args=(rank, port, out)) for rank in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for process in processes:
            process.start()
    for process in processes:
        process.join(120)
        process.kill()
    return out


def _of_both(folder, client):
    first, second = (torch.load(folder / f"{client} {rank}.pt") for rank in range(2))
    if isinstance(first, str) and "Skipped" in first:
        pytest.skip(client)
    assert not isinstance(first, str), first
    return first, second


@pytest.mark.parametrize("client", CLIENTS)
def test_two_processes(two_processes, client):
    """The global batch of the plan, each rank its part, at the lr of the plan."""
    first, second = _of_both(two_processes, client)
    assert [a + b for (a, _), (b, _) in zip(first, second, strict=True)] == WHOLE_RUN
    for seen in (first, second):
        assert [lr for _, lr in seen] == [lr for _, lr in table()]


@pytest.mark.parametrize("client", POLICY_CLIENTS)
def test_policy_in_two_processes(two_processes, client):
    """Statistics of all ranks' samples: the run of one process."""
    first, second = _of_both(two_processes, client)
    wanted = policies.plain("norm test", n=40, multiple_of=2)
    assert len({len(x) for x, _ in wanted}) > 2
    policies.check([(a + b, lr) for (a, lr), (b, _) in zip(first, second, strict=True)], wanted)
    assert [lr for _, lr in first] == [lr for _, lr in second]
