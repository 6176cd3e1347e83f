"""An adaptive policy in the loops of Lightning, transformers and Accelerate is what it is in a plain loop.

The plain loop draws one batch ahead of its steps, measures before the step and updates the policy behind it.
"""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from sfolib.gradients import full_gradient_sqnorm, gradient_statistics
from sfolib.schedules.adaptive import AutoWU, GradNormTrigger, NormTest, OptimalBatch
from sfolib.schedules.torch import PlanLR, ScheduledBatchSampler

N, STEPS = 41, 14  # some epochs: the last batch of one sample joins the one before it
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True) + torch.randn(N, 1, generator=torch.Generator().manual_seed(1))


def full_gradient(model, _):
    return full_gradient_sqnorm(model, mse_loss, (X, Y)) ** 0.5


POLICIES = {
    "norm test": (lambda: NormTest(0.7, batch_size=4, lr=0.05, test_interval=2, max_batch_size=16), mse_loss, None),
    "trigger": (lambda: GradNormTrigger(4, 0.05, 2.0, 2.0, check_every=3, max_batch_size=16), None, full_gradient),
    "losses": (lambda: AutoWU(12, 4, batch_size=5, max_lr=0.1), None, None),
    "second moment": (lambda: OptimalBatch(20.0, 4.0, 1.0, 2.0, n=N, check_every=2), mse_loss, None),
}


def make_model():
    model = nn.Linear(3, 1)
    nn.init.constant_(model.weight, 0.5)
    nn.init.constant_(model.bias, 0.0)
    return model


def plain(kind, steps=STEPS, n=N, **options):
    """(x of the batch, lr) of each step of the twin."""
    make, loss_fn, signal = POLICIES[kind]
    policy, model = make(), make_model()
    sampler = ScheduledBatchSampler(n, policy, lookahead=1, **options)
    optimizer = torch.optim.SGD(model.parameters(), policy.lr)
    rows, batches = [], iter(sampler)
    ahead = next(batches)
    while len(rows) < steps:
        indices, ahead = ahead, next(batches, None)
        x, y = X[indices], Y[indices]
        for group in optimizer.param_groups:
            group["lr"] = policy.lr
        rows.append((x.tolist(), policy.lr))
        due = policy.needs_signal
        if due and loss_fn:
            twice = [*indices, *indices] if len(x) == 1 else indices
            found = gradient_statistics(model, loss_fn, X[twice], Y[twice])
        optimizer.zero_grad()
        loss = mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        if due and signal:
            found = signal(model, None)
        elif due and policy.signal == "loss":
            found = loss.item()
        elif due and policy.signal == "second_moment":
            found = found.second_moment
        policy.update(len(x), found if due else None)
        if ahead is None:
            batches = iter(sampler)
            ahead = next(batches)
    return rows


def check(seen, wanted):
    assert [x for x, _ in seen] == [x for x, _ in wanted]
    assert [lr for _, lr in seen] == pytest.approx([lr for _, lr in wanted], rel=1e-6)  # losses are float32


def lightning(kind, steps=STEPS, save=None, path=None, n=N, options=None, **arguments):
    lightning = pytest.importorskip("lightning")
    from sfolib.integrations.lightning import PolicyCallback

    make, loss_fn, signal = POLICIES[kind]
    sampler, seen = ScheduledBatchSampler(n, make(), **(options or {})), []

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_model()

        def forward(self, x):
            return self.model(x)

        def training_step(self, batch, _):
            x, y = batch
            seen.append((x.tolist(), self.trainer.optimizers[0].param_groups[0]["lr"]))
            return mse_loss(self(x), y)

        def train_dataloader(self):
            return DataLoader(TensorDataset(X, Y), batch_sampler=sampler)

        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            return [optimizer], [{"scheduler": PlanLR(optimizer, sampler), "interval": "step"}]

    callbacks = [PolicyCallback(sampler, loss_fn, signal)]
    if save:
        callbacks.append(lightning.pytorch.callbacks.ModelCheckpoint(save, "state", every_n_train_steps=steps))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            max_epochs=-1, max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=bool(save),
            enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks, **arguments,
        ).fit(Module(), ckpt_path=path)  # fmt: skip
    return seen


def trainer(kind, output, steps=STEPS, resume=None, n=N, options=None, **more):
    transformers = pytest.importorskip("transformers")
    from sfolib.integrations.transformers import PolicyCallback

    make, loss_fn, signal = POLICIES[kind]
    sampler, seen = ScheduledBatchSampler(n, make(), **(options or {})), []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = make_model()

        def forward(self, x, labels=None):
            if labels is None:
                return self.model(x)
            seen.append((x.tolist(), scheduler.optimizer.param_groups[0]["lr"]))
            return {"loss": mse_loss(self.model(x), labels)}

    class Trainer(transformers.Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(DataLoader(data, batch_sampler=sampler))

    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scheduler = PlanLR(optimizer, sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = transformers.TrainingArguments(
            str(output), **{
                "max_steps": STEPS, "save_steps": steps, "report_to": [], "use_cpu": True, "disable_tqdm": True,
                "remove_unused_columns": False, "logging_strategy": "no", "ignore_data_skip": True,
                "max_grad_norm": 0.0, **more,
            },
        )  # fmt: skip
        callbacks = [PolicyCallback(sampler, loss_fn, signal)]
        Trainer(
            model, arguments, train_dataset=data, optimizers=(optimizer, scheduler), callbacks=callbacks,
            data_collator=lambda items: {k: torch.stack([i[k] for i in items]) for k in ("x", "labels")},
        ).train(resume_from_checkpoint=resume)  # fmt: skip
    return seen


def accelerated(kind, folder=None, stop=None, n=N, options=None, **arguments):
    """Of `stop` steps and a run that goes on from there, the second's."""
    accelerate = pytest.importorskip("accelerate")
    from sfolib.integrations.accelerate import PolicyCallback, prepare

    def run(steps, load):
        make, loss_fn, signal = POLICIES[kind]
        sampler, model, seen = ScheduledBatchSampler(n, make(), **(options or {})), make_model(), []
        accelerator = accelerate.Accelerator(cpu=True, **arguments)
        callback = PolicyCallback(accelerator, sampler, loss_fn, signal)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scheduler = PlanLR(optimizer, sampler)
        loader = DataLoader(TensorDataset(X, Y), batch_sampler=sampler)
        model, optimizer, loader, scheduler = prepare(accelerator, model, optimizer, loader, scheduler)
        if load:
            accelerator.load_state(folder)
        while True:
            for x, y in loader:
                seen.append((x.tolist(), optimizer.param_groups[0]["lr"]))
                callback.on_batch_begin(model, (x, y))
                optimizer.zero_grad()
                loss = mse_loss(model(x), y)
                accelerator.backward(loss)
                optimizer.step()
                callback.on_optimizer_step(loss)
                scheduler.step()
                if len(seen) == steps:
                    if folder and not load:
                        accelerator.save_state(folder)
                    accelerator.free_memory()
                    accelerate.state.AcceleratorState._reset_state(True)
                    return seen

    if stop:
        run(stop, False)
    return run(STEPS - (stop or 0), bool(stop))
