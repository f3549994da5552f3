"""blockwise_attention against the dense definition in fp64, and that it never holds a T x S tensor."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longatlas import LongAtlasError
from longatlas.ops import blockwise_attention, causal, dense_attention, merge_attention


def draw(queries, keys, *, heads=2, kv_heads=2, size=4, value=3, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, queries, heads, size), (batch, keys, kv_heads, size), (batch, keys, kv_heads, value))
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def compare(inputs, *, extra=(), block_size=128, **mods):
    """Outputs and every gradient, of q, k, v and what the mods capture."""
    results = []
    for function, options in ((blockwise_attention, {"block_size": block_size}), (dense_attention, {})):
        o = function(*inputs, **mods, **options)
        weight = torch.randn(o.shape, generator=torch.Generator().manual_seed(9), dtype=o.dtype)
        learnt = [*inputs, *extra]
        gradients = torch.autograd.grad((o * weight).sum(), learnt, allow_unused=True)
        results.append([o, *(torch.zeros_like(x) if g is None else g for x, g in zip(learnt, gradients, strict=True))])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(
    queries=st.integers(1, 150),
    past=st.integers(0, 90),
    block_size=st.sampled_from([1, 7, 64, 128]),
    seed=st.integers(0, 1000),
    per_head=st.booleans(),
    density=st.sampled_from([0.02, 0.5, 0.98]),
)
def test_random_masks(queries, past, block_size, seed, per_head, density):
    keys = queries + past
    table = torch.rand(2 if per_head else 1, keys, keys, generator=torch.Generator().manual_seed(seed)) < density

    def mask(b, h, q_idx, kv_idx):
        return table[h if per_head else 0, q_idx, kv_idx]

    compare(draw(queries, keys, seed=seed), mask_mod=mask, block_size=block_size)


def test_masks_that_differ_by_sequence():
    compare(draw(70, 70), mask_mod=lambda b, h, q_idx, kv_idx: (kv_idx + b) % 3 > 0)


@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 200), (63, 63), (130, 333), (256, 256)])
@pytest.mark.parametrize("mask", [None, causal, lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 20])
def test_ragged_sizes(queries, keys, mask):
    compare(draw(queries, keys), mask_mod=mask)


@pytest.mark.parametrize("windowed", [False, True])
def test_score_mods_with_learnable_captures(windowed):
    slope = torch.tensor([0.1, 0.3], dtype=torch.float64, requires_grad=True)
    table = torch.randn(2, 400, dtype=torch.float64).requires_grad_()

    def score(score, b, h, q_idx, kv_idx):
        distance = (q_idx - kv_idx).clamp(0)
        return score - slope[h] * distance + table[h, distance]

    def window(b, h, q_idx, kv_idx):
        return q_idx - kv_idx < 50

    compare(draw(200, 260), extra=(slope, table), score_mod=score, mask_mod=window if windowed else None)


def test_recomputation_in_the_backward_pass_gives_the_same_gradients(monkeypatch):
    from longatlas.ops import blockwise

    monkeypatch.setattr(blockwise, "REMATERIALISE_ABOVE", 0)
    slope = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def score(score, b, h, q_idx, kv_idx):
        return score * slope

    compare(draw(150, 150), extra=(slope,), score_mod=score)


def test_grouped_heads():
    compare(draw(90, 130, heads=6, kv_heads=2), mask_mod=lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 10 + 7 * h)


def test_positions_with_gaps():
    k_positions = torch.cat([torch.arange(4), torch.arange(300, 420)])
    q_positions = torch.arange(380, 420)
    mods = {"q_positions": q_positions, "k_positions": k_positions}
    compare(draw(40, 124), mask_mod=lambda b, h, q_idx, kv_idx: (q_idx - kv_idx < 30) | (kv_idx < 4), **mods)
    compare(draw(40, 124), score_mod=lambda s, b, h, q_idx, kv_idx: s - 0.01 * (q_idx - kv_idx), **mods)
    compare(draw(40, 124), **mods)


@pytest.mark.parametrize("score", [None, lambda s, b, h, q_idx, kv_idx: s + 1])
def test_a_query_that_sees_nothing_gets_zero_and_no_gradient(score):
    def second_half(b, h, q_idx, kv_idx):
        return (kv_idx >= 70) & (kv_idx % 2 == 0)

    inputs = draw(150, 150)
    o = blockwise_attention(*inputs, mask_mod=second_half, score_mod=score)
    assert torch.equal(o[:, :70], torch.zeros_like(o[:, :70]))
    assert bool((o[:, 70:] != 0).all())
    gradients = torch.autograd.grad(o.sum(), inputs)
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    assert not gradients[0][:, :70].any()
    compare(inputs, mask_mod=second_half, score_mod=score)


def test_scale_and_impl():
    inputs = draw(80, 80)
    scaled = blockwise_attention(*inputs, scale=0.1)
    torch.testing.assert_close(scaled, dense_attention(*inputs, scale=0.1), rtol=0, atol=1e-10)
    assert torch.equal(blockwise_attention(*inputs, impl="reference"), dense_attention(*inputs))


def test_one_mask_function_at_two_places_is_laid_out_twice():
    """Layouts are remembered by mask and positions; a window elsewhere must not get the old one."""

    def first_hundred(b, h, q_idx, kv_idx):
        return kv_idx < 100

    inputs = draw(64, 64)
    for start in (500, 80, 0):
        places = torch.arange(start, start + 64)
        compare(inputs, mask_mod=first_hundred, q_positions=places, k_positions=places)


@pytest.mark.parametrize("shape", [(2, 8, 3, 4), (2, 8, 2, 5), (1, 8, 2, 4), (8, 2, 4)])
def test_shapes_that_do_not_fit(shape):
    q, _, v = draw(8, 8)
    with pytest.raises(
        LongAtlasError, match=r"k has shape|q has 2 heads and k 3; q's heads must be a multiple|v has shape"
    ):
        blockwise_attention(q, torch.zeros(shape, dtype=torch.float64), v)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns, forward or backward."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                # Views that broadcast have many elements but little memory behind them.
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def test_the_meter_sees_a_score_matrix():
    q, k, v = (torch.randn(1, 512, 1, 4) for _ in range(3))
    with Largest() as largest:
        dense_attention(q, k, v)
    assert largest.elements >= 512 * 512


@pytest.mark.parametrize(
    "mods",
    [
        {},
        {"mask_mod": lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 512},
        {"score_mod": lambda s, b, h, q_idx, kv_idx: s - 0.1 * (q_idx - kv_idx)},
    ],
    ids=["causal", "window", "score"],
)
def test_nothing_of_size_t_times_s_is_allocated(mods):
    length = 4096
    q, k, v = (torch.randn(1, length, 1, 4).requires_grad_() for _ in range(3))
    with Largest() as largest:
        blockwise_attention(q, k, v, **mods).sum().backward()
    assert 0 < largest.elements <= length * 256
    assert q.grad is not None


# Parts of the keys, put together


def _parts(count: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(count)
    q = torch.randn(2, 40, 4, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 40, 2, 8, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(2))
    return q, k, v


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("block_size", [7, 128])
@pytest.mark.parametrize("score_mod", [None, lambda score, b, h, q_idx, kv_idx: score - 0.1 * h * (q_idx - kv_idx)])
def test_attention_over_disjoint_keys_merges_to_attention_over_all(impl, block_size, score_mod) -> None:
    q, k, v = _parts(1)
    options = {"score_mod": score_mod, "impl": impl, "block_size": block_size, "return_lse": True}
    whole, lse = blockwise_attention(q, k, v, **options)
    expected = dense_attention(q, k, v, score_mod=score_mod)
    torch.testing.assert_close(whole, expected, rtol=0, atol=1e-12)
    places = torch.arange(40)
    chosen = [places[places % 3 == i] for i in range(3)] + [places[:0]]
    parts = [blockwise_attention(q, k[:, c], v[:, c], q_positions=places, k_positions=c, **options) for c in chosen]
    o, merged = merge_attention(parts)
    torch.testing.assert_close(o, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(merged, lse, rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(x.sin().sum(), (q, k, v), retain_graph=True) for x in (o, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


def test_queries_that_see_no_key_merge_to_zero_without_nan() -> None:
    q, k, v = _parts(2)
    far, empty = torch.arange(40) + 1000, (torch.zeros(2, 40, 4, 8), torch.full((2, 40, 4), -torch.inf))
    for impl in ("torch", "reference"):
        o, lse = blockwise_attention(q, k, v, k_positions=far, q_positions=torch.arange(40), return_lse=True, impl=impl)
        assert not o.any()
        assert bool(lse.isneginf().all())
        merged, total = merge_attention([(o, lse), (o, lse)])
        assert not merged.any()
        assert bool(total.isneginf().all())
        (slope,) = torch.autograd.grad(merged.sum() + total.masked_fill(total.isneginf(), 0.0).sum(), q)
        assert not slope.any()
    whole = blockwise_attention(q.float(), k.float(), v.float(), return_lse=True)
    torch.testing.assert_close(merge_attention([whole, empty])[0], whole[0])
    assert merge_attention([(whole[0].bfloat16(), whole[1])])[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([], "got no parts"),
        ([(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 4))], "all must be o"),
        (
            [(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3)), (torch.zeros(1, 2, 3, 5), torch.zeros(1, 2, 3))],
            "all must",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, words) -> None:
    with pytest.raises(LongAtlasError, match=words):
        merge_attention(parts)


@pytest.mark.parametrize("impl", ["torch", "reference"])
@pytest.mark.parametrize("mods", [{}, {"mask_mod": lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 9}])
def test_positions_and_keys_may_differ_by_row(impl, mods) -> None:
    q, k, v = _parts(3)
    positions = torch.stack([torch.arange(40), torch.arange(40) + 500])
    hidden = torch.ones(2, 4, 40, dtype=torch.bool)
    hidden[0, 1, 3:20], hidden[1, :, 5] = False, False
    options = {"q_positions": positions, "k_positions": positions, "visible": hidden, "impl": impl, **mods}
    o, lse = blockwise_attention(q, k, v, **options, block_size=16, return_lse=True)
    torch.testing.assert_close(blockwise_attention(q, k, v, **options, block_size=16), o, rtol=0, atol=1e-12)
    for row in range(2):
        for head in range(4):
            seen = hidden[row, head].nonzero().flatten()
            one = blockwise_attention(
                q[row : row + 1, :, head : head + 1],
                k[row : row + 1, seen, head // 2 : head // 2 + 1],
                v[row : row + 1, seen, head // 2 : head // 2 + 1],
                q_positions=torch.arange(40),
                k_positions=seen,
                impl="reference",
                return_lse=True,
                **mods,
            )
            torch.testing.assert_close(o[row : row + 1, :, head : head + 1], one[0], rtol=0, atol=1e-12)
            torch.testing.assert_close(lse[row : row + 1, :, head : head + 1], one[1], rtol=0, atol=1e-12)
    with pytest.raises(LongAtlasError, match=r"visible is \[2, 3, 40\]; it must be \[B or 1, H or 1, S\]"):
        blockwise_attention(q, k, v, visible=hidden[:, :3])
    with pytest.raises(LongAtlasError, match=r"k_positions is \[3, 40\] for 40 keys in 2 rows"):
        blockwise_attention(q, k, v, k_positions=torch.zeros(3, 40))
