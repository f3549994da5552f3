"""Measures: bytes are counted exactly, and the interval of a median covers what it says."""

from __future__ import annotations

import math
import sys
import time
import types
from dataclasses import asdict
from typing import Any

import pytest
import torch

from longatlas import Decoder, UnsupportedError
from longatlas.decoder.state import clocked, state_bytes
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.measure import gate, levels, speed
from longatlas.measure.bench import Bench
from longatlas.measure.live_bytes import LiveBytes
from longatlas.measure.policies import POLICIES
from longatlas.measure.speed import MAX_SAMPLES, MIN_SAMPLES, Timing, median_interval
from longatlas.measures import MEMORY, SPEED

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
    rows = Bench().measure(cell=asdict(expand(plan)[0]), cache="", function=MEMORY.function)["rows"]
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


def timed(durations: list[float], budget: float) -> list[float]:
    """The samples of a run that takes these seconds, the last of them for ever; slices are a quarter of the budget."""
    left = list(durations)
    clock = [0.0]

    def run() -> None:
        clock[0] += left.pop(0) if len(left) > 1 else left[0]

    def policy(run: Any, seconds: float, most: int) -> list[float]:
        start, samples = clock[0], []
        while not samples or (clock[0] - start < seconds and len(samples) < most):
            before = clock[0]
            run()
            samples.append(clock[0] - before)
        return samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "benchmark", types.SimpleNamespace(timer=lambda: clock[0]))
        timing = Timing(run, policy, budget)
        while not timing.is_done:
            timing.sample(budget / 4)
    return timing.samples


def test_sampling_stops_by_precision_budget_or_number() -> None:
    assert len(timed([0.5], 1.0)) == MIN_SAMPLES
    assert 2 * MIN_SAMPLES <= len(timed([1e-3], 1000.0)) <= MAX_SAMPLES, "all alike: known at once"
    noisy = [1e-3 * (1 + 0.618 * i % 1) for i in range(3 * MAX_SAMPLES)]
    assert len(timed(noisy, 100.0)) == MAX_SAMPLES
    assert sum(timed(noisy, 0.1)) == pytest.approx(0.1, abs=0.03)


def test_the_first_calls_warm_up() -> None:
    assert max(timed([99.0, 0.5], 1.0)) == 0.5
    assert max(timed([99.0, 98.0, 1e-3], 1.0)) == 98.0, "after a long first call no second one is spent"
    assert max(timed([0.2, 0.2, 1e-3], 1.0)) < 0.1, "a short run is repeated once before a slice"


def test_compilation_is_apart() -> None:
    calls: list[float] = []

    def run() -> None:
        time.sleep(0.05 if not calls else 0.001)
        calls.append(0.0)

    timing = Timing(run, POLICIES["wall"], 0.02)
    timing.sample(0.02)
    rows = {row["metric"]: row for row in timing.rows("prefill", 64)}
    assert set(rows) == {"prefill_ms", "tokens_per_s", "compile_ms"}
    assert rows["compile_ms"]["value"] >= 30
    assert max(rows["prefill_ms"]["samples"]) < 40
    assert rows["tokens_per_s"]["value"] == pytest.approx(64 / (rows["prefill_ms"]["value"] / 1000))


@pytest.mark.parametrize(("policy", "function"), [("gpu_cold", "do_bench"), ("gpu_hot", "do_bench_cudagraph")])
def test_gpu_policies_keep_every_sample_of_tritons_timers(
    policy: str, function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def timer(run: Any, **options: Any) -> list[float]:
        asked.update(options)
        run()
        return [2.0, 3.0]

    testing = types.SimpleNamespace(**{function: timer})
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(testing=testing))
    calls: list[int] = []
    assert POLICIES[policy](lambda: calls.append(1), 0.5, 9) == [0.002, 0.003]
    assert (calls, asked["return_mode"]) == ([1], "all")
    assert 0 < asked["rep"] <= 500, "milliseconds"


def test_a_graph_that_cannot_be_captured_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    def timer(run: Any, **options: Any) -> None:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    testing = types.SimpleNamespace(do_bench_cudagraph=timer)
    monkeypatch.setitem(sys.modules, "triton", types.SimpleNamespace(testing=testing))
    with pytest.raises(UnsupportedError, match=r"gpu_hot needs a CUDA graph.*when stream is capturing$"):
        POLICIES["gpu_hot"](lambda: None, 0.5, 9)


def cell(method: str = "vanilla", **changes: Any) -> dict[str, Any]:
    """The fields of a small speed cell."""
    shape = {"layers": 1, "heads": 2, "head_size": 8, "batch": 2, "lengths": (24,), "threads": 1, "budget": 0.01}
    chosen = {"measure": ("speed",), "phases": ("prefill",), **shape, **changes}
    return asdict(expand(Plan(methods=(method,), **chosen))[0])


def subject(method: str = "vanilla", **changes: Any) -> levels.Subject:
    return levels.build(cell(method, **changes))


def timed_rows(level: str, phase: str) -> dict[str, float]:
    """The values of a timed cell's rows."""
    bench = Bench()
    answer = bench.prepare(cell=cell(levels=(level,), phases=(phase,)), function=SPEED.function)
    while "rows" not in answer:
        answer = bench.sample(seconds=0.01)
    return {row["metric"]: row["value"] for row in answer["rows"]}


@pytest.mark.parametrize("level", ["operation", "layer", "decoder"])
def test_train_starts_from_no_gradient(level: str) -> None:
    made = subject(levels=(level,))
    inputs = made.inputs(16, train=True)
    levels.train_once(made, inputs)
    tensors = [*made.module.parameters(), *inputs]
    first = [t.grad.clone() for t in tensors if t.grad is not None]
    levels.train_once(made, inputs)
    second = [t.grad for t in tensors if t.grad is not None]
    assert len(first) == {"operation": 3, "layer": 10, "decoder": 12}[level]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("level", ["operation", "layer", "decoder"])
@pytest.mark.parametrize(("phase", "expected"), [("prefill", [24]), ("decode", [24, 1, 1])])
def test_prefill_and_decode_read_what_they_say(
    level: str, phase: str, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, read, states = subject(levels=(level,)), [], []
    forward = made.forward

    def note(inputs: levels.Inputs, state: Any) -> Any:
        read.append(inputs[0].shape[1])
        states.append(state is not None)
        assert not torch.is_grad_enabled()
        return forward(inputs, state)

    monkeypatch.setattr(made, "forward", note)
    run = levels.phase_runner(made, phase, 24)
    run()
    if phase == "decode":
        run()
        assert states == [False, True, True], "every repetition decodes from a state of T tokens"
    assert read == expected


def test_levels_are_parts_of_one_decoder() -> None:
    whole = subject()
    assert isinstance(whole.module, Decoder)
    assert whole.inputs(24)[0].shape == (2, 24)
    layer, operation = subject(levels=("layer",)), subject(levels=("operation",))
    assert layer.inputs(24)[0].shape == (2, 24, 16)
    assert [x.shape for x in operation.inputs(24)] == [(2, 24, 2, 8)] * 3
    x = torch.randn(2, 24, 16)
    mixer = layer.module.mixer
    q, k, v = (p(x).unflatten(2, (2, 8)) for p in (mixer.q, mixer.k, mixer.v))
    o, _ = operation.forward((q, k, v), None)
    assert torch.allclose(mixer.out(o.flatten(2)), clocked(mixer)(x)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("vanilla", set()),
        ("lightning_attention2", {"decay"}),
        ("transformer_xl", {"relative", "content_bias", "position_bias"}),
    ],
)
def test_the_operation_reads_no_projections(method: str, expected: set[str]) -> None:
    operation = subject(method, levels=("operation",))
    names = {id(held): name for name, held in [*operation.module.named_parameters(), *operation.module.named_buffers()]}
    assert {names[id(weight)].removeprefix("inner.") for weight in operation.weights()} == expected


def test_training_reads_all_but_the_gradient_it_starts_from() -> None:
    layer = levels.phase_runner(subject(levels=("layer",)), "train", 24)
    assert [x is layer.inputs[0] for x in layer.read] == [True]
    assert len(levels.phase_runner(subject(levels=("operation",)), "train", 24).read) == 3
    assert len(levels.phase_runner(subject(), "train", 24).read) == 1


def test_the_compulsory_bytes_of_an_operation() -> None:
    q, read_state = 2 * 2 * 8 * 4, 24 * (2 * 2 * 2 * 8 * 4 + 8)  # and the position of each key
    found = {phase: timed_rows("operation", phase)["moved_bytes"] for phase in ("decode", "train")}
    assert found["decode"] == 3 * q + q + read_state + read_state // 24
    assert found["train"] == 24 * (3 * 3 * q + 2 * q)


def test_a_method_outside_a_level_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="fills model, which is no part of the level operation"):
        subject("int8_weights", levels=("operation",))
    assert type(subject("int8_weights", levels=("layer",)).module.mixer.q).__name__ != "Linear"
    with pytest.raises(UnsupportedError, match="fills context, which is no part of the level layer"):
        subject("passage_selection", levels=("layer",))


def test_context_methods_do_not_train() -> None:
    with pytest.raises(UnsupportedError, match="not trained itself"):
        levels.phase_runner(subject("passage_selection"), "train", 16)


def test_the_gate_looks_once_and_nothing_wrong_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def compare(case: Any, impl: str, length: int, dtype: torch.dtype) -> None:
        calls.append(impl)
        raise AssertionError("the output differs")

    monkeypatch.setattr(gate, "compare_impl", compare)
    gate.verdict.cache_clear()
    for measure in (SPEED, MEMORY):
        asked = {"cell": cell(measure=(measure.name,)), "function": measure.function}
        answer = Bench().prepare(**asked) if measure.timed else Bench().measure(**asked, cache="")
        assert answer["rows"] == [{"status": "incorrect", "reason": "the output differs"}]
    assert calls == ["torch"]
    gate.verdict.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_the_gate_tells_the_error_in_the_cells_dtype(dtype: str) -> None:
    found = gate.verdict("linear_transformer", "torch", "cpu", dtype)
    assert found.red == ""
    low, high = {"float32": (1e-8, 1e-4), "bfloat16": (1e-4, 0.1), "float16": (1e-5, 0.02), "float64": (0, 1e-9)}[dtype]
    assert low <= found.error <= high
