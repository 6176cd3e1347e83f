"""Every optimizer beside a plain one: torch's own on one seed, and the formula of AdaGrad-Norm."""

import numpy as np
import pytest
import torch
from killing import killed_and_resumed

from sfolib._utils.errors import InputError
from sfolib.problems.specs import Digits
from sfolib.schedules.base import exponential
from sfolib.schedules.plan import Plan
from sfolib.training import updates
from sfolib.training.optimizers import SGD, AdaGrad, AdaGradNorm, Adam, AdamW, Optimizer
from sfolib.training.run import run
from sfolib.training.spec import Spec

CASES = {
    "sgd": SGD(),
    "sgd with decay": SGD(weight_decay=0.05),
    "momentum": SGD(momentum=0.9, weight_decay=0.05),
    "nesterov": SGD(momentum=0.8, nesterov=True),
    "adam": Adam(weight_decay=0.05),
    "adamw": AdamW(weight_decay=0.05),
    "adam of short memory": Adam(beta2=0.5),
    "adagrad": AdaGrad(),
    "adagrad_norm": AdaGradNorm(weight_decay=0.05),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


class PlainAdaGradNorm(torch.optim.Optimizer):
    """The scalar method in one line of mathematics, on the flattened model."""

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.a2 = 0.0

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        gradients = [p.grad + group["weight_decay"] * p for p in group["params"]]
        self.a2 += torch.cat([g.flatten() for g in gradients]).norm().item() ** 2
        for p, g in zip(group["params"], gradients, strict=True):
            p -= group["lr"] * g / self.a2**0.5


def plain(case, parameters):
    decay = {"weight_decay": case.weight_decay}
    if case.kind == "adagrad_norm":
        return PlainAdaGradNorm(parameters, 1.0, **decay)
    if case.kind == "sgd":
        return torch.optim.SGD(parameters, 1.0, momentum=case.momentum, nesterov=case.nesterov, **decay)
    if case.kind == "adagrad":
        return torch.optim.Adagrad(parameters, 1.0, **decay)
    named = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[case.kind]
    return named(parameters, 1.0, betas=(0.9, case.beta2), **decay)


@every_case
def test_stacked_seeds_step_as_each_alone(case):
    rng = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    stacked = [draw(3, 4, 2), draw(3, 5)]
    alone = [[p[seed].clone().requires_grad_() for p in stacked] for seed in range(3)]
    twins = [plain(case, parameters) for parameters in alone]
    update = updates.build(case, stacked)
    for t in range(12):
        lr, gradients = 0.1 * 1.1**t, [draw(3, 4, 2), draw(3, 5)]
        for seed, twin in enumerate(twins):
            twin.param_groups[0]["lr"] = lr
            for p, g in zip(alone[seed], gradients, strict=True):
                p.grad = g[seed].clone()
            twin.step()
        update(gradients, lr)
        for seed in range(3):
            for ours, theirs in zip(stacked, alone[seed], strict=True):
                torch.testing.assert_close(ours[seed], theirs.detach(), rtol=1e-9, atol=1e-12)


@every_case
def test_a_seed_does_not_depend_on_its_company(case):
    def rows(seeds):
        spec = Spec(problem=Digits(hidden=(6,)), plan=Plan(32, 0.01), seeds=seeds, max_samples=3600, dtype="float64",
                    optimizer=case)  # fmt: skip
        return run(spec).rows.set_index("seed").loc[7].to_numpy(float)

    np.testing.assert_allclose(rows((7,)), rows((1, 7)), rtol=1e-9)


@every_case
def test_a_killed_run_resumes_to_the_same_rows(case, tmp_path, monkeypatch):
    plan = Plan(exponential(8, 2, 40), 0.01, "step")
    spec = Spec(problem=Digits(hidden=(4,)), plan=plan, seeds=(0, 2), max_samples=4000, eval_every=1.2, optimizer=case)
    killed_and_resumed(spec, tmp_path, monkeypatch, after=9)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Adam(momentum=0.9), "momentum: unknown name"),
        (lambda: SGD(beta2=0.9), "beta2: unknown name"),
        (lambda: SGD(nesterov=True), "momentum = 0.0: must be above 0"),
        (lambda: SGD(momentum=1.0), "momentum = 1.0"),
        (lambda: Optimizer.of({"kind": "lion"}), "kind = 'lion': must be one of"),
    ],
)
def test_a_setting_is_asked_for_where_it_is_used(make, named):
    with pytest.raises(InputError, match=named):
        make()


def test_an_unknown_optimizer_is_named():
    with pytest.raises(InputError, match="optimizer"):
        Spec(problem=Digits(), plan=Plan(8, 0.1), max_samples=100, optimizer="lion")


def test_a_key_names_what_decides_the_numbers():
    spec = Spec(problem=Digits(), plan=Plan(8, 0.1), max_samples=100)
    other = spec.model_copy(update={"optimizer": SGD(momentum=0.9)})
    assert other.key != spec.key
    again = Spec.model_validate_json(other.model_dump_json())
    assert again == other
    assert again.key == other.key
