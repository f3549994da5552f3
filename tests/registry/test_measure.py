"""Measures: bytes are counted exactly, and the interval of a median covers what it says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from longatlas import Decoder, DecoderConfig, UnsupportedError
from longatlas.combination import parse_spec
from longatlas.decoder.state import state_bytes
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.measure import run_cell
from longatlas.measure.memory import LiveBytes
from longatlas.measure.speed import MAX_SAMPLES, MIN_SAMPLES, median_interval, phase_runner, sample_seconds

KIB = 1024


def floats(kib: int) -> torch.Tensor:
    return torch.empty(kib * KIB // 4)


def test_planted_allocations_are_counted_to_the_byte() -> None:
    before = floats(64)
    with LiveBytes() as counter:
        a = floats(3)
        assert (counter.live, counter.peak) == (3 * KIB, 3 * KIB)
        views = [a.view(2, -1), a[1:], a.detach(), before[:8], before.view(4, -1)]
        assert counter.live == 3 * KIB
        b = a + 1
        assert counter.live == 6 * KIB
        a.add_(1)
        before.mul_(0)
        assert counter.live == 6 * KIB
        del a
        assert counter.live == 6 * KIB, "views keep the memory"
        del views
        assert counter.live == 3 * KIB
        del b
        assert counter.live == 0
        c = floats(4)
        assert (counter.live, counter.peak) == (4 * KIB, 6 * KIB)
        del c


def test_every_output_of_an_operation_counts_once() -> None:
    with LiveBytes() as counter:
        values, indices = torch.zeros(256).sort()
        assert counter.live == 256 * 4 + 256 * 8
        halves = torch.zeros(256).chunk(2)
        assert counter.live == 256 * 12 + 256 * 4
        del values, indices, halves
    assert counter.live == 0


def test_backward_counts_saved_tensors_and_gradients() -> None:
    weight = torch.ones(256, requires_grad=True)
    with LiveBytes() as counter:
        x = weight.exp()  # saved: its output
        y = x.exp()
        y.sum().backward()
        assert counter.peak >= 3 * KIB, "x, y and a gradient at once"
        assert counter.peak <= 5 * KIB
        del x, y
        assert counter.live == KIB, "the gradient of the weight stays"
    assert weight.grad is not None


def test_saved_for_backward_stays_alive_through_the_graph() -> None:
    weight = torch.ones(256, requires_grad=True)
    with LiveBytes() as counter:
        out = weight.exp().exp()
        assert counter.live == 2 * KIB, "the inner result is saved for backward"
        with torch.no_grad():
            weight.exp().exp()
        assert counter.live == 2 * KIB
        del out
        assert counter.live == 0


def memory_rows(method: str, phase: str, length: int) -> dict[str, float]:
    plan = Plan(
        methods=(method,),
        measure=("memory",),
        phases=(phase,),
        lengths=(length,),
        layers=1,
        heads=4,
        head_size=8,
        threads=1,
    )
    from dataclasses import asdict

    rows = run_cell.run_cell(asdict(expand(plan)[0]), "")
    return {row["metric"]: row["value"] for row in rows}


def second_difference(method: str) -> float:
    """What grows with T^2 in the peak of training, bytes; what is constant or linear in T drops out."""
    a, b, c = (memory_rows(method, "train", length)["peak_bytes"] for length in (256, 512, 768))
    return a - 2 * b + c


def test_training_memory_of_vanilla_is_quadratic_and_of_flash_attention_linear() -> None:
    one_matrix = 2 * 256 * 256 * 4 * 4  # the second difference of T^2, times heads, times bytes
    assert second_difference("vanilla") >= one_matrix
    assert abs(second_difference("flash_attention")) < 0.02 * one_matrix


def test_state_is_what_is_kept() -> None:
    found = {length: memory_rows("vanilla", "prefill", length)["state_bytes"] for length in (64, 128)}
    keys_and_values = 2 * 4 * 8 * 4
    assert found[128] - found[64] == 64 * (keys_and_values + 8)  # and the position of each key


def test_state_bytes_counts_whole_storages_once() -> None:
    whole = floats(4)
    assert state_bytes({"a": whole[:1], "b": (whole.view(2, -1), 7, None)}) == 4 * KIB
    assert state_bytes([whole[:1]]) == 4 * KIB, "what a view keeps alive"
    assert state_bytes([whole, whole.clone()]) == 8 * KIB
    assert state_bytes((1, "text", None)) == 0


def coverage(n: int, low: int, high: int) -> float:
    """The chance that the median lies between two order statistics (from 0), by counting all outcomes."""
    return float(sum(math.comb(n, k) for k in range(low + 1, high + 1)) / 2**n)


@pytest.mark.parametrize("n", [*range(1, 60), 100, 499, 500])
def test_median_interval_covers_95_percent_and_no_more_than_needed(n: int) -> None:
    low, high = (int(x) for x in median_interval([float(i) for i in reversed(range(n))]))
    assert low + high == n - 1
    if n >= 6:
        assert coverage(n, low, high) >= 0.95
        assert coverage(n, low + 1, high - 1) < 0.95
    else:
        assert (low, high) == (0, n - 1)


def test_sampling_stops_by_precision_budget_or_number(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    durations: list[float] = []
    monkeypatch.setattr("longatlas.measure.speed.time.perf_counter", lambda: clock[0])

    def run() -> None:
        clock[0] += durations[0] if len(durations) == 1 else durations.pop(0)

    def sample(*times: float, budget: float = 1.0) -> list[float]:
        durations[:] = times
        return sample_seconds(run, budget, lambda: None)

    assert len(sample(0.5)) == MIN_SAMPLES
    assert len(sample(1e-3)) == 2 * MIN_SAMPLES, "all alike: known at once"
    noisy = [1e-3 * (1 + 0.618 * i % 1) for i in range(2 * MAX_SAMPLES)]
    assert len(sample(*noisy, budget=100.0)) == MAX_SAMPLES
    assert sum(sample(*noisy, budget=0.1)) == pytest.approx(0.1, abs=0.01)
    assert max(sample(99.0, 0.5)) == 0.5, "the first call warms up"


def decoder(method: str = "vanilla") -> Decoder:
    torch.manual_seed(0)
    return Decoder(DecoderConfig(d_model=16, n_layers=1, n_heads=2), method)


def test_train_starts_from_no_gradient() -> None:
    model = decoder()
    run = phase_runner(model, "train", 16, 2, seed=0)
    run()
    first = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    run()
    second = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(first) == len(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(("phase", "expected"), [("prefill", [24]), ("decode", [24, 1, 1])])
def test_prefill_and_decode_read_what_they_say(phase: str, expected: list[int]) -> None:
    model, read = decoder(), []
    starts: list[int] = []

    def note(module: Any, inputs: tuple[Any, ...]) -> None:
        read.append(inputs[0].shape[1])
        starts.append(inputs[1].position if inputs[1] else 0)
        assert not torch.is_grad_enabled()

    model.core.register_forward_pre_hook(note)
    run = phase_runner(model, phase, 24, 1, seed=0)
    run()
    if phase == "decode":
        run()
        assert starts == [0, 24, 24], "every repetition decodes from a state of T tokens"
    assert read == expected


def test_context_methods_do_not_train() -> None:
    with pytest.raises(UnsupportedError, match="not trained itself"):
        phase_runner(decoder("passage_selection"), "train", 16, 1, seed=0)


def test_the_gate_looks_once_and_reports_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compare(case: Any, impl: str, length: int) -> None:
        calls.append(impl)
        raise AssertionError("the output differs")

    monkeypatch.setattr(run_cell, "compare_impl", compare)
    monkeypatch.setattr(run_cell, "_gates", {})
    combination = parse_spec("vanilla")
    assert [run_cell.gate(combination, "torch", "cpu") for _ in range(2)] == ["the output differs"] * 2
    assert calls == ["torch"]
    cell = {"method": "vanilla", "impl": "torch", "device": "cpu", "threads": 1, "measure": "speed"}
    assert run_cell.run_cell(cell, "") == [{"status": "incorrect", "reason": "the output differs"}]
