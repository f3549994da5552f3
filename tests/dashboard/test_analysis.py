"""Analysis of rows: repeats, settings, exponents, crossovers, frontier, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from longatlas.harness import analysis
from longatlas.words import FAILED


def row(number: int, method: str, length: int, value: float | None, **more: Any) -> dict[str, Any]:
    base = {
        "id": number, "cell": f"c{number}", "method": method, "impl": "torch", "measure": "speed",
        "phase": "prefill", "T": length, "metric": "prefill_ms", "value": value, "unit": "ms", "low": None,
        "high": None, "status": "ok", "reason": "", "device": "cpu", "dtype": "float32", "case": {"batch": 1},
        "seed": 0, "policy": "wall", "source": "new", "threads": 1, "n": 5, "machine": "here", "created": float(number),
    }  # fmt: skip
    return base | more


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(rows)


def test_one_value_of_several_seeds() -> None:
    timed = [row(i, "vanilla", 512, v, seed=i, low=v - 1, high=v + 2) for i, v in enumerate([5.0, 1.0, 2.0])]
    scores = [row(9 + i, "vanilla", 512, v, seed=i, measure="quality", metric="accuracy") for i, v in enumerate([0, 1])]
    failed = [row(19 + i, "vanilla", 1024, None, seed=i, status="oom", metric="") for i in range(2)]
    found = analysis.one_value_each(frame(*timed, *scores, *failed, row(30, "vanilla", 2048, 7.0)))
    assert found[["T", "value", "low", "high", "n"]].fillna(-1).to_numpy().tolist() == [
        [512, 2.0, 0.0, 7.0, 15], [512, 0.5, -1, -1, 10], [1024, -1, -1, -1, 10], [2048, 7.0, -1, -1, 5],
    ]  # fmt: skip


def test_one_implementation_of_several() -> None:
    old = [row(i, "vanilla", t, 1.0, impl="torch") for i, t in enumerate((512, 1024))]
    new = [row(9, "vanilla", 512, 2.0, impl="sdpa"), row(10, "alibi", 512, 3.0, impl="flex")]
    rows = frame(*old, *new)
    assert analysis.variants(rows) == ["sdpa", "torch"]
    assert analysis.one_value_each(rows)["value"].tolist() == [1.0, 1.0, 3.0], "the one with most lengths"
    assert analysis.one_value_each(rows, "sdpa")["value"].tolist() == [2.0, 3.0]
    even = frame(*old[:1], *new)
    assert analysis.one_value_each(even)["value"].tolist() == [2.0, 3.0], "of equals the newest"
    assert analysis.variants(analysis.one_value_each(rows)) == []
    broken = [row(20 + i, "vanilla", t, None, impl="triton", status="crash") for i, t in enumerate((512, 1024, 2048))]
    assert analysis.one_value_each(frame(*old, *broken))["impl"].tolist() == ["torch", "torch"], (
        "numbers before failures"
    )


def test_one_policy_of_several() -> None:
    rows = frame(row(0, "vanilla", 512, 1.0, policy="gpu_hot"), row(1, "vanilla", 512, 2.0, policy="gpu_cold"))
    assert analysis.variants(rows) == ["torch, gpu_cold", "torch, gpu_hot"]
    assert analysis.one_value_each(rows, "torch, gpu_hot")["value"].tolist() == [1.0]
    assert analysis.one_value_each(rows)["value"].tolist() == [2.0]


def test_one_value_each_of_nothing() -> None:
    assert analysis.one_value_each(frame(row(0, "vanilla", 512, 1.0))[:0]).empty


def test_seeds_of_another_source_are_not_averaged_and_an_interval_holds_its_value() -> None:
    old = row(0, "vanilla", 512, 100.0, source="old")
    new = [row(1, "vanilla", 512, 2.0, seed=1, low=1.5, high=2.5), row(2, "vanilla", 512, 6.0, seed=2)]
    (found,) = analysis.one_value_each(frame(old, *new)).to_dict("records")
    assert (found["value"], found["low"], found["high"]) == (4.0, 1.5, 6.0)


def test_exponent_of_an_exact_power_is_exact_and_its_interval_is_a_point() -> None:
    lengths = [512, 1024, 2048, 4096]
    fit = analysis.fit_exponent(lengths, [3e-6 * t**2 for t in lengths])
    assert fit is not None
    assert fit.exponent == pytest.approx(2.0)
    assert fit.low == pytest.approx(2.0)
    assert fit.high == pytest.approx(2.0)


def test_exponent_interval_is_students_t_of_the_slope() -> None:
    x = np.log([512.0, 1024.0, 2048.0, 4096.0])
    y = x + np.array([0.1, -0.1, 0.05, -0.05])
    fit = analysis.fit_exponent(np.exp(x).tolist(), np.exp(y).tolist())
    slope, offset = np.polyfit(x, y, 1)
    error = np.sqrt(((y - slope * x - offset) ** 2).sum() / 2 / ((x - x.mean()) ** 2).sum())
    assert fit is not None
    assert fit.exponent == pytest.approx(slope)
    assert fit.high == pytest.approx(slope + 4.3026527 * error, rel=1e-7)


@pytest.mark.parametrize(("lengths", "values"), [([512], [1]), ([512, 512], [1, 2]), ([512, 1024], [0, 1])])
def test_no_exponent_without_two_lengths_and_positive_values(lengths: list[int], values: list[int]) -> None:
    assert analysis.fit_exponent(lengths, values) is None


def test_two_lengths_give_an_exponent_without_interval() -> None:
    fit = analysis.fit_exponent([1, 2], [1, 4])
    assert fit is not None
    assert (round(fit.exponent, 6), fit.low) == (2.0, None)


def test_crossover_is_where_a_series_stays_below_the_baseline() -> None:
    base = [row(i, "vanilla", t, v) for i, (t, v) in enumerate([(512, 1), (1024, 4), (2048, 16), (4096, 64)])]
    linear = [row(9 + i, "linear", t, v) for i, (t, v) in enumerate([(512, 3), (1024, 3), (2048, 20), (4096, 8)])]
    slow = [row(20 + i, "slow", t, 99.0) for i, t in enumerate([512, 1024])]
    found = analysis.crossovers(frame(*base, *linear, *slow), "vanilla").set_index("method")
    assert found.loc["linear", "from_T"] == 4096
    assert found.loc["linear", "ratio"] == pytest.approx(8 / 64)
    assert pd.isna(found.loc["slow", "from_T"])
    assert found.loc["slow", "longest_T"] == 1024


def test_ratio_is_nan_where_the_baseline_has_no_value() -> None:
    rows = analysis.ratio_to(
        frame(row(1, "vanilla", 512, 2.0), row(2, "a", 512, 1.0), row(3, "a", 1024, 1.0)), "vanilla"
    )
    assert rows["ratio"].tolist()[:2] == [1.0, 0.5]
    assert np.isnan(rows["ratio"].tolist()[2])


def test_who_runs_out_of_memory_is_above_who_does_not() -> None:
    base = [row(i, "vanilla", t, 1.0) for i, t in enumerate((512, 1024))]
    other = [row(9 + i, "alibi", t, v) for i, (t, v) in enumerate(((512, 2.0), (1024, 1.5), (2048, 9.0)))]
    lost = row(20, "vanilla", 2048, None, status="oom")
    rows = frame(*base, *other)

    def start(*failed: dict[str, Any]) -> Any:
        (found,) = analysis.crossovers(rows, "vanilla", frame(*failed) if failed else None).to_dict("records")
        assert (found["ratio"], found["longest_T"]) == (1.5, 1024)
        return found["from_T"]

    assert pd.isna(start())
    assert start(lost) == 2048
    assert pd.isna(start(lost | {"status": "incorrect"})), "a wrong result is no slow one"
    assert pd.isna(start(lost, row(21, "alibi", 4096, None, status="oom"))), "who fails later is not below"


def test_of_equals_the_frontier_keeps_all() -> None:
    points = pd.DataFrame({"cost": [1.0, 1.0, 2.0, 2.0, 1.0], "quality": [3.0, 3.0, 1.0, 1.0, 4.0]})
    assert analysis.pareto(points, "cost", "quality").to_numpy().tolist() == [[1, 3], [1, 3], [2, 1], [2, 1]]


def test_depths_are_numbers() -> None:
    names = ("accuracy_depth_3", "accuracy_depth_all", "accuracy_depth_", "accuracy", "loss_depth_1")
    rows = frame(*(row(i, "vanilla", 8, 1.0, metric=name) for i, name in enumerate(names)))
    assert analysis.depths(rows)["depth"].tolist() == [3]


def test_nothing_is_estimated_to_fit_where_memory_ran_out() -> None:
    growing = [row(i, "vanilla", t, v) for i, (t, v) in enumerate(((512, 1.0), (1024, 2.0)))]
    lost = frame(row(9, "vanilla", 4096, None, status="oom"))
    free = analysis.largest_that_fits(frame(*growing), 100.0)["estimated_T"].tolist()
    held = analysis.largest_that_fits(frame(*growing), 100.0, lost)["estimated_T"].tolist()
    assert (free, held) == ([pytest.approx(51200)], [1024])
    flat = frame(*(row(i, "vanilla", t, 200.0) for i, t in enumerate((512, 1024))))
    assert analysis.largest_that_fits(flat, 100.0)["estimated_T"].isna().all()


def test_pareto_keeps_what_nothing_beats_in_both() -> None:
    points = pd.DataFrame({"method": list("abcde"), "cost": [1, 2, 3, 2, np.nan], "quality": [3, 2, 2, 1, 0]})
    assert analysis.pareto(points, "cost", "quality")["method"].tolist() == ["a", "d"]
    better = analysis.pareto(points, "cost", "quality", y_less=False)
    assert better["method"].tolist() == ["a"]


def test_at_length_takes_the_longest_length_that_all_share() -> None:
    rows = frame(row(1, "a", 512, 1.0), row(2, "a", 1024, 2.0), row(3, "b", 512, 3.0))
    assert analysis.at_length(rows, "prefill_ms", "prefill")["T"].tolist() == [512, 512]


def test_trade_off_joins_methods_that_have_both() -> None:
    cost = analysis.at_length(frame(row(1, "a", 512, 1.0), row(2, "b", 512, 2.0)), "prefill_ms", "prefill")
    quality = frame(row(3, "a", 256, 2.5, metric="bits_per_byte"), row(4, "a", 512, 2.4, metric="bits_per_byte"))
    found = analysis.trade_off(cost, quality)
    assert found[["method", "cost", "quality", "quality_T"]].to_numpy().tolist() == [["a", 1.0, 2.5, 256]]


def test_depths_are_read_from_the_metric() -> None:
    rows = frame(row(1, "a", 64, 0.5, metric="accuracy_depth_3"), row(2, "a", 64, 0.5, metric="accuracy"))
    assert analysis.depths(rows)[["depth", "value"]].to_numpy().tolist() == [[3, 0.5]]


def test_failures_are_never_dropped() -> None:
    rows = frame(*(row(i, "a", 512, None, status=status, metric="") for i, status in enumerate(FAILED)))
    assert len(analysis.failures(rows)) == len(FAILED)


def test_a_value_that_is_not_finite_is_no_measurement() -> None:
    rows = pd.DataFrame({"method": "vanilla", "T": [1, 2, 3, 4], "metric": "ms", "status": "ok", "phase": "train"})
    assert analysis.measured(rows.assign(value=[1.0, np.nan, np.inf, None]), "ms")["T"].tolist() == [1]


def test_ratios_stand_for_values_and_leave_out_what_has_no_baseline() -> None:
    rows = frame(row(1, "vanilla", 8, 4.0), row(2, "fast", 8, 1.0), row(3, "fast", 16, 2.0))
    found = analysis.ratios(rows, "vanilla")
    assert found[["method", "T", "value"]].values.tolist() == [["fast", 8, 0.25]]
    assert found["low"].isna().all()


def test_reference_slopes_start_at_the_baseline() -> None:
    rows = frame(row(1, "fast", 8, 1.0), row(2, "vanilla", 16, 2.0), row(3, "vanilla", 64, 9.0))
    lines = analysis.reference_slopes(rows, (0.0, 2.0), "vanilla")
    assert lines.values.tolist() == [[0.0, 8.0, 2.0], [0.0, 64.0, 2.0], [2.0, 8.0, 0.5], [2.0, 64.0, 32.0]]
    assert analysis.reference_slopes(rows[:1], (1.0,), "vanilla")["value"].tolist() == [1.0, 1.0]
    assert analysis.reference_slopes(rows[:0], (1.0,), "vanilla").empty


def test_largest_that_fits_is_measured_and_drawn_on() -> None:
    growing = [row(n, "vanilla", 8 << n, 10.0 * 4**n) for n in range(3)]  # T^2: 10, 40, 160
    flat = [row(10 + n, "flat", 8 << n, 50.0) for n in range(3)]
    found = analysis.largest_that_fits(frame(*growing, *flat), 90.0).set_index("method")
    assert found.loc["vanilla", ["measured_T", "value", "longest_T"]].tolist() == [16, 40.0, 32]
    assert found.loc["vanilla", "estimated_T"] == pytest.approx(24.0)
    assert found.loc["flat", ["measured_T", "estimated_T"]].tolist() == [32, float("inf")]
    tight = analysis.largest_that_fits(frame(*growing), 2.5)
    assert tight["measured_T"].isna().all()
    assert tight["estimated_T"].iloc[0] == pytest.approx(4.0)
    assert analysis.largest_that_fits(frame(growing[0]), 90.0)["estimated_T"].isna().all()


def test_effective_length_ends_where_a_shorter_one_fails() -> None:
    rows = frame(*(row(n, "a", T, v) for n, (T, v) in enumerate([(8, 1.0), (16, 0.5), (32, 1.0)])), row(9, "b", 8, 0.1))
    found = analysis.effective_lengths(rows, 0.9)
    assert found.loc[0, ["method", "effective_T", "longest_T"]].tolist() == ["a", 8, 32]
    assert found["effective_T"].isna().tolist() == [False, True]
