"""One plan in three places: its table, a plain DataLoader loop, and the training loop."""

import pytest
import torch
from spies import steps_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sfolib._utils.errors import InputError
from sfolib._utils.rng import epoch_order
from sfolib.problems.specs import Digits
from sfolib.schedules import base as s
from sfolib.schedules import published
from sfolib.schedules.plan import Plan
from sfolib.schedules.theoretical import critical_plan, front_plan
from sfolib.schedules.torch import PlanLR, ScheduledBatchSampler
from sfolib.theory.bounds import Constants
from sfolib.training.loop import Trainer
from sfolib.training.spec import Spec

C = Constants(L=2.0, sigma2=40.0, gap=1.5)
PLANS = {
    "constant": Plan(64, 0.1),
    "linear by epoch": Plan(s.linear(100, 60), s.linear(0.1, 0.05), max_batch_size=190),
    "exponential by step": Plan(s.exponential(8, 1.5, 9), s.exponential(0.1, 1.2, 9), "step", max_batch_size=1000),
    "exponential by sample": Plan(s.exponential(16, 2, 500), s.warmup(s.cosine(0.5, 0.1, 1500), 300), "sample", 200),
    "string": Plan(s.parse("0:16 0.4K:32 1K:64"), s.parse("0:0.1 1.2K:0.05"), "sample"),
    "smith": published.increase_batch_size(30, s.milestones(0.3, {1: 0.2, 2: 0.5}), max_batch_size=200),
    "seesaw": published.seesaw(16, s.cosine(0.5, 0.01, 2000), max_batch_size=90),
    "scaled": published.scaled(Plan(s.linear(20, 10), 0.1), 4, "sqrt"),
    "momentum": published.at_momentum(Plan(12, 0.1), 0.9),
    "late switch": published.late_switch(25, 400, 1234, 0.1),
    "stagewise": published.stagewise(8, 0.05, 2, 1.3, 4, 2400, max_lr=0.08, max_batch_size=50, clock="sample"),
    "critical": critical_plan(C, 4.0, stages=4, lr=0.02, max_batch_size=100),
    "front": front_plan(C, 3.0, stages=4, max_batch_size=60),
}


def loop(n, plan, epochs, seed=0, workers=0):
    """(rows of the table, indices of each batch) of a plain loop."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = PlanLR(optimizer, plan, n)
    sampler = ScheduledBatchSampler(n, plan, seed)
    loader = DataLoader(TensorDataset(torch.arange(n)), batch_sampler=sampler, num_workers=workers)
    rows, batches, samples = [], [], 0
    for epoch in range(epochs):
        expected = len(loader)
        before = len(rows)
        for (x,) in loader:
            samples += len(x)
            rows.append((epoch, len(rows) + 1, samples, len(x), optimizer.param_groups[0]["lr"]))
            batches.append(x.tolist())
            optimizer.step()
            scheduler.step()
        assert len(rows) - before == expected
    return rows, batches


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_the_table_is_what_a_plain_loop_and_the_training_loop_do(plan):
    problem, seed, epochs = Digits(holdout=997), 5, 3
    n = problem.size
    assert n == 800
    table = [tuple(row) for row in plan.table(n, epochs).itertuples(index=False)]
    rows, batches = loop(n, plan, epochs, seed)
    assert rows == table
    orders = [epoch_order(n, seed, epoch, "permutation").tolist() for epoch in range(epochs)]
    assert [i for batch_size in batches for i in batch_size] == [i for order in orders for i in order]

    trainer = Trainer(Spec(problem=problem, plan=plan, seeds=(seed,), max_samples=epochs * n, dtype="float64"), "cpu")
    assert [
        ((samples - batch_size) // n, step, samples, batch_size, lr)
        for step, samples, batch_size, lr in steps_of(trainer)
    ] == table


@pytest.mark.parametrize("name", ["exponential by step", "seesaw"])
def test_prefetching_workers_change_nothing(name):
    assert loop(300, PLANS[name], 2, workers=2) == loop(300, PLANS[name], 2)


@pytest.mark.parametrize("n", [1, 7])
def test_batches_larger_than_the_data(n):
    rows, _ = loop(n, Plan(10, 0.1), 3)
    assert [(row[0], row[3]) for row in rows] == [(0, n), (1, n), (2, n)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_goes_on_mid_epoch_to_the_same_order(workers):
    n, plan = 300, PLANS["exponential by step"]
    rows, whole = loop(n, plan, 3, seed=4)
    for stop in (0, 1, 20, next(row[1] for row in rows if row[2] == n), len(rows) - 1):
        sampler, taken = ScheduledBatchSampler(n, plan, 4), 0
        scheduler = PlanLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), plan, n)
        while taken < stop:
            for _ in DataLoader(TensorDataset(torch.arange(n)), batch_sampler=sampler, num_workers=workers):
                taken += 1
                scheduler.optimizer.step()
                scheduler.step()
                if taken == stop:
                    break
        states = sampler.state_dict(taken), scheduler.state_dict()
        resumed = ScheduledBatchSampler(n, plan, 4)
        resumed.load_state_dict(states[0])
        assert [batch_size for _ in range(3 - rows[stop][0]) for batch_size in resumed] == whole[stop:]
        apart = plan.model_copy()  # another object: not tied to the sampler
        fresh = PlanLR(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0), apart, n)
        fresh.load_state_dict(states[1])
        assert fresh.get_last_lr() == [fresh.optimizer.param_groups[0]["lr"]] == [rows[stop][4]]
        fresh.optimizer.step()
        fresh.step()
        assert stop + 1 == len(rows) or fresh.get_last_lr() == [rows[stop + 1][4]]


def test_an_iteration_left_early_begins_again():
    sampler = ScheduledBatchSampler(20, Plan(6, 0.1), 1)
    batches = iter(sampler)
    first = [next(batches), next(batches)]
    assert len(sampler) == 4
    again = list(sampler)
    assert again[:2] == first
    assert [len(batch_size) for batch_size in again] == [6, 6, 6, 2]
    assert list(sampler) != again  # the next epoch


def test_parameter_groups_keep_their_ratio():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.5, 0.05)]
    optimizer = torch.optim.SGD(groups)
    scheduler = PlanLR(optimizer, Plan(4, s.exponential(0.2, 0.5), "step"), 100)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.005])


def test_bad_input_names_the_field_and_the_value():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    sampler = ScheduledBatchSampler(20, Plan(6, 0.1), 1)
    for call, named in [
        (lambda: ScheduledBatchSampler(0, Plan(6, 0.1)), "n = 0"),
        (lambda: ScheduledBatchSampler(5, 16), "plan = 16"),
        (lambda: sampler.state_dict(-1), "step = -1: must be a whole number"),
        (lambda: sampler.load_state_dict({"n": 20, "seed": 2, "step": 0, "samples": 0}), "seed = 1: must be 2"),
        (lambda: PlanLR(optimizer, Plan(6, 0.1), 20), "largest lr of the parameter groups = 0.0"),
        (lambda: PlanLR(optimizer, Plan(6, 0.1), 0), "samples_per_epoch = 0"),
    ]:
        with pytest.raises(InputError) as caught:
            call()
        assert named in str(caught.value)
