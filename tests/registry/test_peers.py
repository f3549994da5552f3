"""Peers: other projects' implementations, run where they are asked for and compared before they are timed."""

from __future__ import annotations

import math

import pytest
import torch

from longatlas import (
    Attention,
    Cost,
    Decoder,
    DecoderConfig,
    LongAtlasError,
    Method,
    Option,
    Peer,
    UnsupportedError,
    run,
)
from longatlas.combination import as_combination, parse_spec
from longatlas.measure import gate
from longatlas.ops import causal, dense_attention
from longatlas.testing import check_method
from longatlas.testing.case import make_case
from longatlas.testing.impls import compare_impl


def own(config, *, window=0, impl="auto"):
    return Attention(mask_mod=causal)


def peer_of(scale=1.0, seen=None, decode_scale=1.0):
    """A peer that multiplies its outputs; `seen` takes the options that it was built with."""

    def build(config, *, window, impl):
        if seen is not None:
            seen.append((window, impl))

        def forward(q, k, v, where):
            factor = scale * (decode_scale if q.shape[1] == 1 else 1.0)
            return factor * dense_attention(q, k, v, q_positions=where.q_positions, k_positions=where.k_positions)

        return Attention(forward=forward)

    return Peer(build)


def method(**peers):
    return Method(
        name="planted",
        title="Planted",
        family="efficient_attention/sparse/fixed_patterns",
        summary="Causal attention.",
        fills={"attention": own},
        options=(Option("window", 3, "anything", min=1),),
        cost=Cost("T^2", "T"),
        peers=peers,
    )


def compare(card, impl="peer:other", dtype=torch.float32):
    return compare_impl(make_case(as_combination(card)), impl, 63, dtype)


def test_a_peer_takes_the_place_of_the_builder_and_is_called_like_it():
    seen = []
    config = DecoderConfig(d_model=32, n_heads=2)
    card = method(other=peer_of(2.0, seen))
    tokens = torch.arange(8)[None]
    torch.manual_seed(0)
    plain = Decoder(config, card)(tokens)[0]
    assert seen == []
    torch.manual_seed(0)
    assert not torch.allclose(Decoder(config, card, impl="peer:other")(tokens)[0], plain)
    assert seen == [(3, "auto"), (3, "auto")]


def test_peers_are_offered_and_auto_is_never_one():
    combination = as_combination(method(other=peer_of()))
    assert combination.offered == ("auto", "torch", "reference", "peer:other")
    assert combination.impls == ("torch",)
    for device in ("cpu", "cuda"):
        assert combination.resolve_impl("auto", device) == "torch"
    with pytest.raises(LongAtlasError, match="has no impl 'peer:fla'; it has: torch, reference, peer:other"):
        Decoder(DecoderConfig(), combination, impl="peer:fla")


def test_a_combination_has_the_peers_of_the_part_that_computes():
    assert parse_spec("yarn+sliding_window").offered == ("auto", "torch", "reference", "peer:flex")
    assert "peer:fla" in parse_spec("lightning_attention2").offered


def test_the_conformance_check_needs_no_peer():
    def broken(config, **options):
        raise AssertionError("the check built a peer")

    check_method(method(other=Peer(broken)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_peer_that_agrees_is_within_the_tolerance_of_its_dtype(dtype):
    error = compare(method(other=peer_of()), dtype=dtype).worst
    assert 0 <= error < {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}[dtype]


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        (peer_of(1.02), "impl 'peer:other' at T = 63: the output"),
        (peer_of(decode_scale=1.1), "the output of one more token"),
        (peer_of(math.nan), "is not finite everywhere"),
    ],
)
def test_a_peer_that_differs_gets_no_time(peer, words):
    with pytest.raises(AssertionError, match=words):
        compare(method(other=peer))


def test_a_peer_that_is_not_installed_says_what_to_install():
    def build(config, **options):
        import no_such_project  # noqa: F401

    card = method(other=Peer(build, install="no-such-project"), old=Peer(build))
    with pytest.raises(UnsupportedError, match=r"No module named 'no_such_project'.*pip install no-such-project"):
        compare(card)
    with pytest.raises(UnsupportedError, match="install a newer torch"):
        compare(card, "peer:old")


def test_the_gate_tells_a_peer_of_a_method_that_is_not_installed_here():
    try:
        import fla  # noqa: F401
    except ImportError:
        with pytest.raises(UnsupportedError, match="pip install flash-linear-attention"):
            gate.verdict("lightning_attention2", "peer:fla", "cpu", "float32")
    else:
        pytest.skip("flash-linear-attention is installed")


def test_a_peer_is_measured_beside_the_methods_own_impls(tmp_path):
    """In turns with them, in a worker of its own; one that is not installed, or has no gradient here, costs its row."""
    plan = {
        "methods": ["vanilla_segments:segment_len=8", "lightning_attention2"],
        "impl": "torch,peer:sdpa,peer:flex,peer:fla",
        "measure": ["speed"],
        "phases": ["prefill", "decode"],
        "levels": ["operation"],
        "lengths": [24],
        "heads": 4,
        "kv_heads": 2,
        "head_size": 16,
        "budget": 0.02,
        "threads": 1,
    }
    rows = run(plan, store=str(tmp_path / "store.sqlite"), progress=False)
    found = {
        (row.method.partition(":")[0], row.impl, row.phase): row for row in rows.drop_duplicates("cell").itertuples()
    }
    assert len(found) == 2 * 5
    for phase in ("prefill", "decode"):
        own, peer = (found["vanilla_segments", impl, phase] for impl in ("torch", "peer:sdpa"))
        assert own.status == peer.status == "ok"
        assert own.value != peer.value
        assert own.case == {"batch": 1, "heads": 4, "head_size": 16, "kv_heads": 2}
        flex = found["vanilla_segments", "peer:flex", phase]
        assert (flex.status, "no gradient on a CPU" in flex.reason) == ("unsupported", True)
        fla = found["lightning_attention2", "peer:fla", phase]
        assert (fla.status, "pip install flash-linear-attention" in fla.reason) == ("unsupported", True)
