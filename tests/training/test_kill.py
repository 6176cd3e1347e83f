"""Runs that are killed, interrupted and started again: nothing that was measured is lost or changed."""

import os
import signal
import threading
import time

import pytest
import torch
import torture

from sfolib import cli
from sfolib._utils import interrupt
from sfolib._utils.errors import InputError
from sfolib.schedules import adaptive
from sfolib.schedules.adaptive.base import Policy
from sfolib.schedules.plan import Plan
from sfolib.training import checkpoint, records
from sfolib.training.loop import Trainer
from sfolib.training.optimizers import Optimizer
from sfolib.training.run import CHECKPOINT, run


@pytest.mark.long
def test_twenty_kills_lose_nothing(tmp_path):
    """`make torture` does two hundred."""
    names = torture.kill(20, tmp_path)
    assert len(set(names)) >= 3


def test_every_kind_of_run_is_among_those_killed():
    cases = dict(torture.specs())
    policies = {name for name in adaptive.__all__ if issubclass(getattr(adaptive, name), Policy)}
    assert policies <= set(cases)
    assert set(Optimizer.kinds) <= {spec.optimizer.kind for spec in cases.values()}
    assert {spec.noise_probes is None for spec in cases.values()} == {True, False}
    assert {spec.workers is None for spec in cases.values()} == {True, False}
    assert {spec.plan.clock for spec in cases.values() if spec.plan} == {"epoch", "step", "sample"}


SIGNALLED = {"AutoWU", "epoch", "cnn", "quadratic", "momentum", "noise probes", "workers"}
CASES = [(name, spec) for name, spec in torture.specs() if name in SIGNALLED]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("name", "spec"), CASES, ids=[name for name, _ in CASES])
def test_a_signal_ends_a_run_at_its_next_step(name, spec, number, tmp_path, monkeypatch):
    """Between two measuring points too, with what was tallied since the last."""
    whole = run(spec, tmp_path / "whole", "cpu")
    last = int(whole.steps[-1])
    build, seen = Trainer.__init__, []

    def built(self, *given):
        build(self, *given)
        update = self.update

        def signalled(gradients, lr):
            update(gradients, lr)
            seen.append(self.step)
            if len(seen) == last // 2 + 1:
                os.kill(os.getpid(), number)

        signalled.state_dict, signalled.load_state_dict = update.state_dict, update.load_state_dict
        self.update = signalled

    monkeypatch.setattr(Trainer, "__init__", built)
    with pytest.raises(interrupt.Interrupted, match=f"^{number.name} after {last // 2 + 1} steps"):
        run(spec, tmp_path / "stopped", "cpu")
    folder = tmp_path / "stopped" / spec.key
    assert not (folder / records.RUN).exists()
    assert run(spec, tmp_path / "stopped", "cpu").rows.equals(whole.rows)
    assert seen == list(range(last))  # no step was taken twice
    assert {path.name for path in folder.iterdir()} == {records.RUN, records.METRICS}


def test_a_signal_at_any_step_misses_no_measuring_point(tmp_path, monkeypatch):
    """One that comes in the step of a measuring point too, or while it is measured."""
    spec = dict(torture.specs())["sgd"].model_copy(update={"max_steps": 8, "eval_every": 1.5})
    whole = run(spec)
    assert list(whole.steps) == [0, 1, 2, 3, 5, 8]
    for owner, name, count in ((Trainer, "rows", 5), (Plan, "reading", 8)):
        original = getattr(owner, name)
        for last in range(count):
            left = iter(range(last, -1, -1))

            def signalled(*given, original=original, left=left):
                if next(left, None) == 0:
                    signal.raise_signal(signal.SIGTERM)
                return original(*given)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, signalled)
                with pytest.raises(interrupt.Interrupted):
                    run(spec, tmp_path / f"{name}{last}", "cpu")
            assert run(spec, tmp_path / f"{name}{last}", "cpu").rows.equals(whole.rows)


def test_signals_are_as_before_once_a_run_has_ended():
    before = [signal.getsignal(number) for number in interrupt.SIGNALS]
    with interrupt.listening():
        assert [signal.getsignal(number) for number in interrupt.SIGNALS] != before
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.received() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)  # a second one does not wait
    assert interrupt.received() is None
    assert [signal.getsignal(number) for number in interrupt.SIGNALS] == before


def test_an_ignored_signal_stays_ignored_and_threads_are_let_be():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.listening():
            signal.raise_signal(signal.SIGINT)
            assert interrupt.received() is None
    finally:
        signal.signal(signal.SIGINT, before)
    failed = []

    def listen():
        try:
            with interrupt.listening():
                failed.append(False)
        except ValueError:
            failed.append(True)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert failed == [False]


def _command(arguments, told):
    with open(told, "w") as file:
        os.dup2(file.fileno(), 2)
    os._exit(cli.main(arguments))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_says_so_in_a_line_and_goes_on(number, tmp_path):
    spec = dict(torture.specs())["step"].model_copy(update={"max_steps": 4000})
    config, told = tmp_path / "spec.json", tmp_path / "told.txt"
    config.write_text(spec.model_dump_json())
    command = ["train", str(config), "--device", "cpu", "--out"]
    context = torture.server()
    child = context.Process(target=_command, args=([*command, str(tmp_path / "run")], told))
    child.start()
    while not (tmp_path / "run" / records.METRICS).exists():
        time.sleep(0.01)
    os.kill(child.pid, number)
    child.join()
    last = told.read_text().splitlines()[-1]
    assert child.exitcode == 130
    assert last.startswith(f"sfolib: interrupted: {number.name} after ")
    assert "Traceback" not in told.read_text()
    assert cli.main([*command, str(tmp_path / "run"), "--resume"]) == 0
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    files = [(tmp_path / name / records.METRICS).read_bytes() for name in ("run", "whole")]
    assert files[0] == files[1]


@pytest.fixture
def stopped(tmp_path, monkeypatch):
    """(spec, folder) of a run that was killed half-way, with a checkpoint."""
    spec = dict(torture.specs())["epoch"]
    measured = Trainer.rows

    def rows(self):
        if self.step > 60:
            raise KeyboardInterrupt
        return measured(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "rows", rows)
        with pytest.raises(KeyboardInterrupt):
            run(spec, tmp_path, "cpu", checkpoint_every=0.0)
    return spec, tmp_path / spec.key


def _contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _flip(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


DAMAGE = {
    "cut checkpoint": (CHECKPOINT, lambda data: data[:-100], "is damaged or of another version"),
    "hole in a checkpoint": (CHECKPOINT, lambda data: data[:300] + data[400:], "is damaged;"),
    "empty checkpoint": (CHECKPOINT, lambda data: b"", "damaged or of another version"),
    "bit of a checkpoint": (CHECKPOINT, _flip, "is damaged"),
    "checkpoint of another version": (CHECKPOINT, lambda data: data.replace(b"nt 4\n", b"nt 0\n"), "another version"),
    "cut rows": (records.METRICS, lambda data: data[:300], "damaged"),
    "bit of a row": (records.METRICS, _flip, "damaged"),
    "no rows": (records.METRICS, None, "cannot be"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_left_alone(damage, stopped):
    spec, folder = stopped
    name, change, message = DAMAGE[damage]
    path = folder / name
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    before = _contents(folder)
    with pytest.raises(InputError, match=f"{name}.*{message}"):
        run(spec, folder.parent, "cpu")
    assert _contents(folder) == before


def test_a_half_written_last_row_is_written_again(stopped, tmp_path):
    spec, folder = stopped
    with open(folder / records.METRICS, "ab") as file:
        file.write(b'{"seed": 3, "epo')
    assert run(spec, folder.parent, "cpu").rows.equals(run(spec).rows)


def test_a_checkpoint_executes_nothing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "owned"),)

    checkpoint.write(tmp_path / "checkpoint.pt", {"key": Evil()})
    with pytest.raises(InputError, match=r"checkpoint\.pt.*holds more than tensors and numbers; delete it"):
        checkpoint.read(tmp_path / "checkpoint.pt", "cpu")
    assert not (tmp_path / "owned").exists()
    checkpoint.write(tmp_path / "checkpoint.pt", {"a": torch.arange(3.0), "b": [1, None]})
    assert checkpoint.read(tmp_path / "checkpoint.pt", "cpu")["b"] == [1, None]
