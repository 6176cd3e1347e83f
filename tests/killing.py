"""A run that is killed, for the tests of all that has state."""

import pytest

from sfolib.training import records
from sfolib.training.loop import Trainer
from sfolib.training.run import CHECKPOINT, run


def killed_and_resumed(spec, folder, monkeypatch, after):
    """The run of a spec, checked to be the same, byte for byte, where it is killed after so many measuring points (with
    a checkpoint at each) and goes on."""
    whole, measured, left = run(spec, folder / "whole"), Trainer.rows, iter(range(after))

    def rows(self):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return measured(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "rows", rows)
        with pytest.raises(KeyboardInterrupt):
            run(spec, folder / "killed", checkpoint_every=0.0)
    assert (folder / "killed" / spec.key / CHECKPOINT).exists()
    assert run(spec, folder / "killed").rows.equals(whole.rows)
    files = [(folder / name / spec.key / records.METRICS).read_bytes() for name in ("killed", "whole")]
    assert files[0] == files[1]
    return whole
