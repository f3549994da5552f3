"""Influence maps against the masks that are known, and against finite differences."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from longatlas import Attention, Memory, Method, Option
from longatlas.cli.influence import SHADES, shade, tell_of_scaling
from longatlas.cli.influence import influence as command
from longatlas.combination import Combination, as_combination, parse_spec
from longatlas.decoder import Decoder, DecoderConfig
from longatlas.decoder.defaults import grow_cache, keep
from longatlas.errors import LongAtlasError
from longatlas.harness import findings
from longatlas.harness.executor import Reply, Request
from longatlas.measure.influence import influence
from longatlas.measure.influence_map import Influence
from longatlas.store import Store

ROW, COLUMN = np.meshgrid(np.arange(32), np.arange(32), indexing="ij")
CAUSAL = COLUMN <= ROW
MASKS = {
    "vanilla": CAUSAL,
    "flash_attention": CAUSAL,
    "alibi": CAUSAL,
    "yarn": CAUSAL,
    "linear_transformer": CAUSAL,
    "lightning_attention2": CAUSAL,
    "infini_attention:segment_len=8": CAUSAL,
    "int8_weights": CAUSAL,
    "sliding_window:window=8": CAUSAL & (ROW - COLUMN < 8),
    "sliding_window": CAUSAL & (ROW - COLUMN < 8),
    "streaming_llm:window=8:sinks=2": CAUSAL & ((ROW - COLUMN < 8) | (COLUMN < 2)),
    "vanilla_segments:segment_len=8": CAUSAL & (ROW // 8 == COLUMN // 8),
    "transformer_xl:segment_len=8:mem_len=8": CAUSAL & (COLUMN >= ROW // 8 * 8 - 8),
    "yarn+sliding_window:window=8": CAUSAL & (ROW - COLUMN < 8),
    "parallel_context_windows:window=16:query_len=4": CAUSAL,
}


@pytest.mark.parametrize("spec", MASKS)
def test_the_map_is_the_mask(spec: str) -> None:
    values = np.array(influence(spec).values)
    assert ((values > 0) == MASKS[spec]).all()


def test_a_second_layer_reaches_a_window_further() -> None:
    values = np.array(influence("sliding_window:window=8", layers=2).values)
    assert ((values > 0) == (CAUSAL & (ROW - COLUMN < 15))).all()


def test_the_memory_takes_top_k_keys() -> None:
    """Beyond the local window a query of the Memorizing Transformer sees at most top_k keys of each of 4 heads."""
    values = np.array(influence("memorizing_transformer:segment_len=4:memory_size=16:top_k=1").values) > 0
    far = (values & (COLUMN < ROW // 4 * 4 - 4)).sum(1)
    assert far.max() <= 4
    assert far[12:].min() >= 1


def test_values_are_those_of_finite_differences() -> None:
    found = influence("vanilla", tokens=6)
    torch.manual_seed(0)
    config = DecoderConfig(vocab_size=6, d_model=64, n_layers=1, n_heads=4, train_length=6)
    decoder = Decoder(config, "vanilla").double()
    directions = torch.randn(8, 6, dtype=torch.float64)
    weight = next(m for m in decoder.modules() if isinstance(m, nn.Embedding)).weight
    step, slopes = 1e-6, torch.zeros(6, 6, 64, 8, dtype=torch.float64)
    with torch.no_grad():
        for j in range(6):
            for column in range(64):
                ends = []
                for sign in (step, -step):
                    weight[j, column] += sign
                    ends.append(decoder(torch.arange(6)[None])[0][0] @ directions.T)
                    weight[j, column] -= sign
                slopes[:, j, column] = (ends[0] - ends[1]) / (2 * step)
    expected = slopes.square().sum(2).mean(2).sqrt()
    torch.testing.assert_close(torch.tensor(found.values, dtype=torch.float64), expected, rtol=1e-3, atol=1e-6)


def test_a_method_of_your_own_is_drawn_too() -> None:
    def every_other(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return (q_idx - kv_idx) % 2 == 0

    mine = Method(
        name="every_other",
        title="Every other",
        summary="Sees every other key.",
        family="efficient_attention/sparse/fixed_patterns",
        paper="2004.05150",
        fills={"attention": lambda config: Attention(mask_mod=every_other)},
    )
    values = np.array(influence(as_combination(mine)).values)
    assert ((values > 0) == (CAUSAL & ((ROW - COLUMN) % 2 == 0))).all()


def thinned() -> Method:
    """Keeps the last four tokens, and every fourth of the older ones; what it reads in one call it shows whole."""

    def build(config: DecoderConfig) -> Memory:
        def extend(k, v, past, here):  # type: ignore[no-untyped-def]
            seen = grow_cache(k, v, past, here)
            old = seen.positions < here.end - 4
            return keep(seen, ~old | (seen.positions % 4 == 0))

        return Memory(extend)

    return Method(
        name="thinned",
        title="Thinned",
        summary="Keeps one of four old tokens.",
        family="efficient_attention/sparse/fixed_patterns",
        paper="2004.05150",
        fills={"memory": build},
    )


def test_a_memory_without_attention_shows_what_it_keeps() -> None:
    values = np.array(influence(as_combination(thinned())).values)
    assert ((values > 0) == (CAUSAL & ((ROW - COLUMN <= 4) | (COLUMN % 4 == 0)))).all()


def test_reading_one_at_a_time_changes_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    once = influence("sliding_window:window=4", tokens=12)
    monkeypatch.setattr("longatlas.measure.influence._keeps_between_calls", lambda combination: True)
    np.testing.assert_allclose(influence("sliding_window:window=4", tokens=12).values, once.values, rtol=1e-3)


def test_rows_are_relative_and_json_keeps_all() -> None:
    found = influence("alibi", tokens=8)
    assert found.tokens == 8
    assert all(max(row) == 1.0 for row in found.relative)
    assert Influence.from_dict(json.loads(json.dumps(found.as_dict()))) == found


@pytest.mark.parametrize(("sizes", "words"), [({"tokens": 1}, "2 to 256"), ({"layers": 0}, "1 to 8")])
def test_sizes_are_checked(sizes: dict[str, int], words: str) -> None:
    with pytest.raises(LongAtlasError, match=words):
        influence("vanilla", **sizes)


def test_shades_fall_by_tens() -> None:
    assert [shade(value) for value in (0.0, 1e-9, 0.005, 0.05, 1.0)] == [
        "  ",
        SHADES[0] * 2,
        SHADES[2] * 2,
        SHADES[3] * 2,
        SHADES[4] * 2,
    ]


def test_the_command_draws_it() -> None:
    command = [sys.executable, "-m", "longatlas", "influence", "sliding_window:window=2", "--tokens", "4"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[0].startswith("sliding_window:window=2, 4 tokens")
    assert [len(line) - len(line.lstrip()) for line in lines[1:]] == [0, 0, 2, 4]


def test_the_command_says_what_was_scaled(capsys: pytest.CaptureFixture[str]) -> None:
    def told(spec: str, tokens: int | None = None) -> str:
        combination = parse_spec(spec)
        tell_of_scaling(combination, influence(combination, tokens=tokens))
        told = capsys.readouterr()
        assert told.out == ""
        return told.err

    said = told("sliding_window:window=24")
    assert "influence of 'sliding_window:window=24' is that of 'sliding_window:window=8'" in said
    assert "give --tokens 48" in said
    assert told("sliding_window:window=24", 48) == ""
    assert told("sliding_window:window=8") == told("vanilla") == ""
    assert "choose them of at most 128 and give --tokens 256" in told("sliding_window:window=200")
    assert "longer than half the sequence" in " ".join(CliRunner().invoke(command, ["--help"]).stdout.split())


def test_a_finding_is_kept_until_the_source_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, vanilla = Store(str(tmp_path / "s.sqlite")), parse_spec("vanilla")
    assert findings.kept(store, "influence", vanilla) is None
    made = findings.find(store, "influence", vanilla)
    assert [found["spec"] for found in made["found"]] == ["vanilla"]
    assert findings.kept(store, "influence", vanilla) == made
    monkeypatch.setattr(findings.Code, "of", lambda self, combination, kind: "another")
    assert findings.kept(store, "influence", vanilla) is None


class Told:
    """An executor that answers with the spec, or as it was told to."""

    def __init__(self, failing: str = "") -> None:
        self.failing, self.asked = failing, list[list[str]]()

    def ask(self, requests: Sequence[Request], timeout: float, **options: Any) -> Iterator[Reply]:
        self.asked.append([request.arguments["spec"] for request in requests])
        for request in requests:
            spec = request.arguments["spec"]
            if spec == self.failing:
                yield Reply(request, None, "crash", "planted", (), 1.0)
            else:
                yield Reply(request, {"spec": spec}, "ok", "", (), 1.0)


def answering(monkeypatch: pytest.MonkeyPatch, failing: str = "") -> Told:
    made = Told(failing)
    monkeypatch.setattr(findings, "executor_on", lambda *places, **options: nullcontext(made))
    return made


def test_a_finding_is_of_the_options_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(window: int) -> Combination:
        option = Option("window", window, "keys a query sees", unit="tokens", min=1)
        method = Method(
            name="mine", title="Mine", family="misc/parallelism", summary="x", options=(option,),
            fills={"attention": lambda config, window: Attention(mask_mod=lambda b, h, i, j: i - j < window)},
        )  # fmt: skip
        return as_combination(method)

    store = Store(str(tmp_path / "s.sqlite"))
    monkeypatch.setattr(findings.Code, "of", lambda self, combination, kind: "the same")
    answering(monkeypatch)
    findings.find(store, "influence", made(4))
    assert findings.kept(store, "influence", made(4)) is not None
    assert findings.kept(store, "influence", made(10)) is None


def test_findings_of_several_methods_are_kept_apart_and_one_that_fails_costs_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "s.sqlite"))
    specs = [parse_spec(name) for name in ("vanilla", "alibi")]
    more = [*specs, parse_spec("yarn:factor=8"), parse_spec("ntk_rope")]
    told = answering(monkeypatch, failing=more[2].spec)
    assert findings.find_all(store, "influence", specs) == {}
    assert told.asked == [["vanilla", "alibi"]]
    assert findings.kept(store, "influence", specs[1])["found"] == [{"spec": "alibi"}]
    failed = findings.find_all(store, "influence", more)
    assert list(failed) == [more[2].spec]
    assert "cannot be differentiated: planted; `longatlas verify" in failed[more[2].spec]
    assert findings.kept(store, "influence", more[3])["found"] == [{"spec": more[3].spec}]
    assert findings.find_all(store, "influence", [*specs, more[3]]) == {}
    assert len(told.asked) == 2


def test_a_finding_that_takes_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(findings.KINDS, "influence", 0.05)
    store = Store(str(tmp_path / "s.sqlite"))
    with pytest.raises(LongAtlasError, match=r"not done after 0\.05 s, and was ended; `longatlas verify vanilla`"):
        findings.find(store, "influence", parse_spec("vanilla"))
    assert findings.kept(store, "influence", parse_spec("vanilla")) is None
