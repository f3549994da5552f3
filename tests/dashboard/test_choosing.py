"""Which method for a case: every answer worked out by hand from a few rows."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import pytest

from longatlas import Attention, Method
from longatlas.harness import analysis
from longatlas.harness.choosing import Case, choose, value_at
from longatlas.harness.plan import Plan
from longatlas.testing import check_method, verify_method

PLAN = Plan(methods=("vanilla",), threads=1)
COLUMNS = ("method", "impl", "measure", "phase", "metric", "T", "value", "low", "high", "status", "reason")


def row(method: str, metric: str, T: int, value: float, **more: Any) -> dict[str, Any]:
    phase = "language_model" if metric == "bits_per_byte" else "prefill"
    base = dict.fromkeys(COLUMNS) | {"impl": "torch", "phase": phase, "status": "ok", "reason": "", "measure": ""}
    return base | {"method": method, "metric": metric, "T": T, "value": value} | more


SHAPED = pd.DataFrame(
    [
        *(row("vanilla", "prefill_ms", T, T * T / 100) for T in (10, 100)),
        *(row("sliding_window", "prefill_ms", T, T) for T in (10, 100)),
        row("flash_attention", "prefill_ms", 10, 2.0),
        row("alibi", "prefill_ms", 10, 1.0),
        row("alibi", "", 100, math.nan, status="oom", reason="needs much"),
        *(row("vanilla", "peak_bytes", T, T * T * 2.0**20) for T in (10, 100)),
        *(row("sliding_window", "peak_bytes", T, T * 2.0**20) for T in (10, 100)),
    ]
)
TIMES = analysis.measured(SHAPED, "prefill_ms", "prefill")
QUALITY = pd.DataFrame(
    [row("vanilla", "bits_per_byte", T, 2.0 + T / 1000) for T in (50, 100, 200)]
    + [row("sliding_window", "bits_per_byte", 100, 2.5)]
)
NAMES = ["vanilla", "sliding_window", "flash_attention", "alibi", "yarn"]


def test_the_fastest_stands_first_with_its_reasons() -> None:
    answer = choose(Case(100), NAMES, SHAPED, QUALITY, PLAN)
    assert answer.fitting["method"].tolist() == ["vanilla", "sliding_window"]
    assert answer.fitting["quality"].tolist() == [2.1, 2.5]
    assert answer.reasons == {
        "vanilla": "the fastest; the best quality",
        "sliding_window": "the fastest; the least memory; 1.0 times as fast as vanilla; "
        "0.400 bits per byte more than the best",
    }
    assert answer.excluded == {"alibi": "oom at T = 100: needs much"}
    assert answer.unmeasured == ("flash_attention", "yarn")
    assert answer.plan is not None
    assert " ".join(answer.plan.to_command()) == (
        "longatlas run --methods flash_attention,yarn --phases prefill --lengths 100 --threads 1"
    )


def test_a_budget_leaves_out_what_needs_more_and_asks_for_what_is_not_known() -> None:
    answer = choose(Case(100, memory=200 * 2.0**20), NAMES, SHAPED, QUALITY, PLAN)
    assert answer.fitting["method"].tolist() == ["sliding_window"]
    assert answer.excluded["vanilla"] == "needs 10,000.0 MiB, more than 200.0 MiB"
    tight = choose(Case(10, memory=1.0), ["flash_attention"], SHAPED, QUALITY, PLAN)
    assert tight.unmeasured == ("flash_attention",)


def test_a_budget_holds_weights_inputs_and_the_state_that_a_decode_starts_from() -> None:
    def sized(phase: str, **sizes: float) -> list[dict[str, Any]]:
        return [row("vanilla", f"{name}_bytes", 10, size, phase=phase) for name, size in sizes.items()]

    rows = [
        row("vanilla", "decode_ms", 10, 1.0, phase="decode"),
        *sized("decode", peak=1.0, weight=100.0, input=10.0),
    ]
    unknown = choose(Case(10, "decode", memory=2000.0), ["vanilla"], pd.DataFrame(rows), QUALITY, PLAN)
    assert unknown.plan is not None
    assert unknown.plan.phases == ("prefill", "decode"), "the state is measured after a prefill"
    known = pd.DataFrame([*rows, *sized("prefill", state=1000.0)])
    assert choose(Case(10, "decode", memory=1111.0), ["vanilla"], known, QUALITY, PLAN).fitting["bytes"].tolist() == [
        1111
    ]
    assert choose(Case(10, "decode", memory=1110.0), ["vanilla"], known, QUALITY, PLAN).fitting.empty


def test_one_seed_that_failed_does_not_rule_out_what_another_measured() -> None:
    rows = [row("alibi", "prefill_ms", 10, 1.0), row("alibi", "", 10, math.nan, status="timeout", measure="speed")]
    assert choose(Case(10), ["alibi"], pd.DataFrame(rows), QUALITY, PLAN).fitting["method"].tolist() == ["alibi"]


def test_between_two_lengths_the_line_answers_and_beyond_them_nothing() -> None:
    assert value_at(TIMES, "vanilla", 10) == (1.0, False)
    value, between = value_at(TIMES, "vanilla", 50)
    assert (value, between) == (pytest.approx(25.0), True)
    assert math.isnan(value_at(TIMES, "vanilla", 101)[0])
    assert math.isnan(value_at(TIMES, "yarn", 10)[0])


def test_without_training_and_exact_leave_out_by_the_card() -> None:
    retrofit = choose(Case(10, may_train=False), NAMES, SHAPED, QUALITY, PLAN)
    assert set(retrofit.fitting["method"]) == {"vanilla", "flash_attention"}
    assert retrofit.excluded["alibi"] == "must be trained with the model"
    exact = choose(Case(10, exact=True), [*NAMES, "gone"], SHAPED, QUALITY, PLAN)
    assert exact.fitting["method"].tolist() == ["vanilla", "flash_attention"]
    assert exact.excluded["yarn"] == "computes something else than vanilla attention"
    assert exact.excluded["gone"] == "its plugin is not installed"


def test_nothing_measured_is_all_unmeasured() -> None:
    answer = choose(Case(10), ["yarn"], SHAPED[:0], QUALITY[:0], PLAN)
    assert answer.fitting.empty
    assert answer.unmeasured == ("yarn",)


def test_a_card_that_says_exact_is_held_to_it() -> None:
    check_method("flash_attention")

    def wrong(config: Any) -> Attention:
        return Attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 8)

    method = Method(
        name="wrong", title="Wrong", family="efficient_attention/local/sliding_window", summary="A window.",
        fills={"attention": wrong}, exact=True,
    )  # fmt: skip
    failed = [result.check for result in verify_method(method).results if result.status == "failed"]
    assert failed == ["equals_vanilla"]


def test_quality_is_that_which_most_candidates_have() -> None:
    ends = [row(name, "bits_per_byte_at_end", 100, bits) for name, bits in (("vanilla", 3.0), ("sliding_window", 2.0))]
    for end in ends:
        end["phase"] = "language_model"
    both = pd.concat([QUALITY, pd.DataFrame(ends)])
    assert choose(Case(100), NAMES, SHAPED, both, PLAN).fitting["quality"].tolist() == [2.1, 2.5]
    context = both[(both["method"] != "sliding_window") | (both["metric"] == "bits_per_byte_at_end")]
    assert choose(Case(100), NAMES, SHAPED, context, PLAN).fitting["quality"].tolist() == [3.0, 2.0]
