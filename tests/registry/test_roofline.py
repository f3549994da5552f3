"""The roofline: peaks from counted work over a false clock, shares, and compulsory bytes."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from longatlas import LongAtlasError, UnknownNameError, UnsupportedError
from longatlas.measure import roofline
from longatlas.measure.roofline import Peaks, Traffic, machine_peaks, moved_bytes, shares, written_state


@pytest.fixture
def false_clock(monkeypatch):
    """A machine of 10^9 operations per second, on which a copy takes a second; notes threads and dtypes."""
    seen = []

    def seconds(run, device):
        with FlopCounterMode(display=False) as counter:
            run()
        seen.append((device, torch.get_num_threads()))
        return counter.get_total_flops() / 1e9 or 1.0

    monkeypatch.setattr(roofline, "_seconds", seconds)
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 4096)
    return seen


def test_peaks_are_work_over_time(false_clock):
    assert machine_peaks("cpu", "float32", 1) == Peaks(pytest.approx(1e9), 2 * 4096)


def test_threads_are_set_while_measuring_and_set_back(false_clock):
    before = torch.get_num_threads()
    machine_peaks("cpu", "float64", before + 1)
    assert set(false_clock) == {("cpu", before + 1)}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_peaks_of_this_machine_survive_json(dtype, monkeypatch):
    monkeypatch.setattr(roofline, "LONG_ENOUGH", 0.002)
    peaks = machine_peaks("cpu", dtype)
    assert min(peaks.flops_per_s, peaks.bytes_per_s) > 0
    assert Peaks.from_dict(json.loads(json.dumps(peaks.to_dict()))) == peaks


@pytest.mark.parametrize(
    "saved", [{}, {"flops_per_s": 1e9}, {"flops_per_s": 0, "bytes_per_s": 1}, {"flops_per_s": "x"}]
)
def test_spoilt_peaks_are_refused(saved):
    with pytest.raises(LongAtlasError, match="measure them anew"):
        Peaks.from_dict(saved)


def test_bad_arguments_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean 'float32'"):
        machine_peaks("cpu", "float3")
    with pytest.raises(LongAtlasError, match="threads is 0"):
        machine_peaks("cpu", "float32", 0)
    with pytest.raises(LongAtlasError, match="positive time"):
        shares(1, 1, 0.0, Peaks(1, 1))
    with pytest.raises(UnknownNameError, match="unknown phase 'backward'"):
        moved_bytes(Traffic(1, 1, 1), "backward")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_unsupported():
    with pytest.raises(UnsupportedError, match="no GPU"):
        machine_peaks("cuda", "float32")


def test_shares_name_the_nearer_bound():
    peaks = Peaks(flops_per_s=100.0, bytes_per_s=10.0)
    assert shares(200, 5, 4.0, peaks) == (0.5, 0.125, "compute")
    assert shares(20, 10, 4.0, peaks) == (0.05, 0.25, "bandwidth")


def test_compulsory_bytes_of_each_phase():
    traffic = Traffic(weights=1000, inputs=100, outputs=10, state_in=5, state_out=2)
    assert moved_bytes(traffic, "decode") == moved_bytes(traffic, "prefill") == 1117
    assert moved_bytes(traffic, "train") == 3 * 1000 + 3 * 100 + 2 * 10


def test_a_grown_cache_is_written_by_its_growth():
    assert written_state(100, 108) == 8
    assert written_state(0, 64) == 64
    assert written_state(64, 64) == 64
