"""The model of a step's time; how long a step takes is not asserted."""

import numpy as np
import pytest
import torch

from sfolib._utils.errors import InputError
from sfolib.analysis.step_time import fit_step_time, measure_step_time
from sfolib.problems.specs import Digits


def test_fit_step_time_finds_latency_and_time_per_sample():
    batches = np.array([1, 8, 64, 512])
    assert fit_step_time(batches, 5e-5 + 3e-7 * batches) == pytest.approx((5e-5, 3e-7))


def test_fit_step_time_weighs_relative_errors():
    seconds = np.array([1.0, 1.1, 100.0, 110.0])
    latency, per_sample = fit_step_time([1, 1, 1000, 1000], seconds)
    # where s and 1.1 s were both seen, t has the least (t/s − 1)² + (t/(1.1 s) − 1)² at t = s (1 + 1/1.1)/(1 + 1/1.21)
    mean = (1 + 1 / 1.1) / (1 + 1 / 1.21)
    assert latency + per_sample * np.array([1, 1000]) == pytest.approx([mean, 100 * mean])


@pytest.mark.parametrize("seconds", [[2.0, 1.0], [1.0, 20.0], [0.0, 1.0]])
def test_times_that_no_machine_takes_are_named(seconds):
    with pytest.raises(InputError, match="seconds = "):
        fit_step_time([1, 10], seconds)


def test_measured_times_are_one_a_batch_size_and_threads_are_given_back():
    threads = torch.get_num_threads()
    seconds = measure_step_time(Digits(), [1, 64], steps=3, repeats=2, device="cpu")
    assert seconds.shape == (2,)
    assert np.all(seconds > 0)
    assert torch.get_num_threads() == threads
