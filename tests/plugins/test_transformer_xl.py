"""Transformer-XL: the operation against loops written from the paper, the layer against its own definition."""

import math

import pytest
import torch

from longatlas import Decoder, DecoderConfig, LongAtlasError
from longatlas.decoder.state import clocked
from longatlas.testing import check_method
from longatlas_plugins.long_term_memory import transformer_xl
from longatlas_plugins.long_term_memory.transformer_xl import TransformerXL, relative_attention, sinusoids

CONFIG = DecoderConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=4)


def make_inputs(batch, queries, keys, heads, size, v_size, rows, dtype=torch.float64):
    generator = torch.Generator().manual_seed(queries + keys)
    shapes = [
        (batch, queries, heads, size),
        (batch, keys, heads, size),
        (batch, keys, heads, v_size),
        (rows, heads, size),
        (heads, size),
        (heads, size),
    ]
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def brute_force(q, k, v, rel_k, u, bias, *, window=None, clamp_len=None):
    """One query and one key after the other."""
    out = torch.zeros(*q.shape[:3], v.shape[3], dtype=q.dtype)
    memory = k.shape[1] - q.shape[1]
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            for i in range(q.shape[1]):
                first = 0 if window is None else max(0, i + memory - window + 1)
                scores = []
                for j in range(first, i + memory + 1):
                    row = i + memory - j if clamp_len is None else min(i + memory - j, clamp_len)
                    content = (q[b, i, h] + u[h]) @ k[b, j, h]
                    scores.append((content + (q[b, i, h] + bias[h]) @ rel_k[row, h]) / math.sqrt(q.shape[3]))
                weights = torch.stack(scores).softmax(0)
                out[b, i, h] = weights @ v[b, first : i + memory + 1, h]
    return out


def mixer(impl="auto", cache="hidden", dtype=torch.float64, config=CONFIG, **options):
    defaults = {"segment_len": 8, "mem_len": 8, "clamp_len": 0, "same_length": False}
    torch.manual_seed(0)
    layer = transformer_xl.build_mixer(config, **{**defaults, **options}, cache=cache, impl=impl).to(dtype)
    layer.__class__ = Alone
    return layer


class Alone(TransformerXL):
    """The layer without a decoder, whose clock it keeps itself."""

    def forward(self, x, state):
        return clocked(super().forward)(x, state)


def random_x(length, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, 32, generator=generator, dtype=torch.float64).to(dtype)


def run_in_calls(layer, x, lengths):
    outputs, state = [], None
    for part in x.split(lengths, 1):
        y, state = layer(part, state)
        outputs.append(y)
    return torch.cat(outputs, 1), state


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize(("window", "clamp_len"), [(None, None), (4, None), (None, 3), (6, 2), (1, None)])
def test_operation_equals_a_double_loop(impl, window, clamp_len):
    rows = min(x for x in (12, window, clamp_len and clamp_len + 1) if x)
    inputs = make_inputs(2, 7, 12, 2, 4, 6, rows)
    options = {"window": window, "clamp_len": clamp_len}
    expected = brute_force(*inputs, **options)
    torch.testing.assert_close(relative_attention(*inputs, **options, impl=impl), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("queries", "keys", "window", "clamp_len"),
    [(1, 1, None, None), (1, 70, 9, None), (63, 63, None, 5), (300, 500, None, None), (520, 600, 270, 40)],
)
@pytest.mark.parametrize("grad", [True, False])
def test_torch_equals_reference(queries, keys, window, clamp_len, grad):
    inputs = make_inputs(2, queries, keys, 3, 4, 4, keys)
    weight = torch.linspace(-1, 1, 2 * queries * 12, dtype=torch.float64).view(2, queries, 3, 4)
    found = []
    for impl in ("torch", "reference"):
        with torch.set_grad_enabled(grad):
            o = relative_attention(*inputs, window=window, clamp_len=clamp_len, impl=impl)
        found.append([o, *(torch.autograd.grad((o * weight).sum(), inputs) if grad else ())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


def test_tiles_of_heads_and_sequences_cover_everything(monkeypatch):
    from longatlas_plugins.long_term_memory.transformer_xl import fast

    inputs = make_inputs(3, 40, 50, 3, 4, 4, 50)
    expected = relative_attention(*inputs, impl="reference")
    gradients = torch.autograd.grad(expected.square().sum(), inputs)
    for tile in (1, 2 * 40 * 50, 4 * 40 * 50):
        monkeypatch.setattr(fast, "TILE", tile)
        o = relative_attention(*inputs)
        torch.testing.assert_close(o, expected, atol=1e-10, rtol=0)
        for a, b in zip(torch.autograd.grad(o.square().sum(), inputs), gradients, strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_shift_keeps_the_right_distances(impl):
    """A fault elsewhere: `[:-1]` for `[1:]` in the shift. Here only distance 2 scores, so v is read 2 back."""
    q = torch.ones(1, 5, 1, 1)
    k, v = torch.zeros(1, 8, 1, 1), torch.arange(8.0).view(1, 8, 1, 1)
    rel_k = torch.zeros(8, 1, 1)
    rel_k[2] = 200.0
    o = relative_attention(q, k, v, rel_k, torch.zeros(1, 1), torch.zeros(1, 1), impl=impl)
    torch.testing.assert_close(o.flatten(), torch.arange(1.0, 6.0))


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("window", [None, 5])
def test_garbage_of_the_shift_is_masked(impl, window):
    """Rows of rel_k that no seen distance uses are poisoned, and later keys changed: outputs and gradients hold."""
    inputs = make_inputs(1, 20, 30, 2, 4, 4, 40)
    with torch.no_grad():
        inputs[3][30 if window is None else window :] = math.nan
    o = relative_attention(*inputs, window=window, impl=impl)
    for gradient in torch.autograd.grad(o.sum(), inputs[:3]):
        assert torch.isfinite(gradient).all()
    changed = [x.detach().clone() for x in inputs]
    changed[1][:, 25:] = 1e4
    changed[2][:, 25:] = 1e4
    after = relative_attention(*changed, window=window, impl=impl)
    assert torch.isfinite(o).all()
    if impl == "torch":
        before = relative_attention(*(x.detach() for x in inputs), window=window, impl=impl)
        assert torch.equal(after[:, :15], before[:, :15])
    torch.testing.assert_close(after[:, :15], o[:, :15], atol=1e-12, rtol=0)
    assert not torch.equal(after[:, 15], o[:, 15])


def test_bf16_adds_both_terms_before_rounding():
    inputs = make_inputs(1, 64, 128, 2, 16, 16, 128, torch.bfloat16)
    exact = relative_attention(*(x.double() for x in inputs), impl="reference")
    o = relative_attention(*inputs)
    assert o.dtype == torch.bfloat16
    error = (o.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 3e-3


def test_nothing_of_size_queries_times_keys():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, torch.Tensor):
                    largest = max(largest, x.numel())
            return out

    inputs = make_inputs(1, 2048, 2048, 1, 4, 4, 2048, torch.float32)
    with Watch():
        relative_attention(*inputs).sum().backward()
    assert largest <= 256 * 2049


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"q": torch.zeros(2, 3, 4)}, "q has shape"),
        ({"k": torch.zeros(1, 2, 2, 4), "v": torch.zeros(1, 2, 2, 4)}, "k holds 2 keys for 3 queries"),
        ({"k": torch.zeros(1, 5, 2, 6)}, "k has shape"),
        ({"v": torch.zeros(1, 4, 2, 4)}, "v has shape"),
        ({"rel_k": torch.zeros(4, 2, 4)}, "rel_k has 4 rows"),
        ({"rel_k": torch.zeros(5, 4)}, "rel_k has shape"),
        ({"content_bias": torch.zeros(4)}, "content_bias"),
        ({"position_bias": torch.zeros(4, 2)}, "position_bias"),
        ({"window": 0}, "window is 0"),
        ({"clamp_len": -1}, "clamp_len is -1"),
        ({"impl": "triton"}, "q is on cpu; impl='triton' runs on an NVIDIA GPU"),
        ({"k": [[0.0]]}, "k is a list; it must be a torch.Tensor"),
        ({"impl": "tritton"}, "impl is 'tritton'; it must be one of auto, triton, torch, reference"),
    ],
)
def test_bad_input_is_named(change, named):
    arguments = {
        "q": torch.zeros(1, 3, 2, 4),
        "k": torch.zeros(1, 5, 2, 4),
        "v": torch.zeros(1, 5, 2, 4),
        "rel_k": torch.zeros(5, 2, 4),
        "content_bias": torch.zeros(2, 4),
        "position_bias": torch.zeros(2, 4),
    }
    with pytest.raises(ValueError, match=named):
        relative_attention(**{**arguments, **change})


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_no_queries(impl):
    inputs = make_inputs(2, 0, 3, 2, 4, 6, 3)
    assert relative_attention(*inputs, impl=impl).shape == (2, 0, 2, 6)


def test_sinusoids_are_halves_and_stay_distinct_in_bf16():
    """A fault elsewhere: positions counted in bf16, of which 769 of 4096 stay distinct."""
    rows = sinusoids(4096, 64, dtype=torch.float64)
    frequencies = torch.tensor([10000.0 ** (-2 * i / 64) for i in range(32)], dtype=torch.float64)
    torch.testing.assert_close(rows[1000], torch.cat([(1000 * frequencies).sin(), (1000 * frequencies).cos()]))
    assert len(sinusoids(4096, 64, dtype=torch.bfloat16).unique(dim=0)) == 4096


def test_layer_in_bf16_tells_far_positions_apart():
    layer = mixer(mem_len=600, segment_len=600, dtype=torch.bfloat16)
    exact = mixer(mem_len=600, segment_len=600, impl="reference")
    exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    x = random_x(1000, 1, torch.bfloat16)
    found, expected = layer(x, None)[0].double(), exact(x.double(), None)[0]
    assert (found - expected).square().mean().sqrt() / expected.square().mean().sqrt() < 2e-2


def layer_by_hand(layer, x, segment_len, mem_len, window=None, clamp_len=None):
    """The paper's recurrence: concatenate detached inputs, project, attend by brute force, keep inputs."""
    memory, outputs = x[:, :0], []
    for segment in x.split(segment_len, 1):
        seen = torch.cat([memory.detach(), segment], 1)
        k, v = (f(seen).unflatten(2, (4, 8)) for f in (layer.k, layer.v))
        rel_k = torch.einsum("re,hde->rhd", sinusoids(seen.shape[1], 32, dtype=x.dtype), layer.relative)
        q = layer.q(segment).unflatten(2, (4, 8))
        o = brute_force(q, k, v, rel_k, layer.content_bias, layer.position_bias, window=window, clamp_len=clamp_len)
        outputs.append(layer.out(o.flatten(2)))
        whole = torch.cat([memory, segment], 1)
        memory = whole[:, max(0, whole.shape[1] - mem_len) :]
    return torch.cat(outputs, 1), memory


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize(
    "options",
    [
        {"mem_len": 8},
        {"mem_len": 19, "clamp_len": 5},
        {"mem_len": 3},
        {"mem_len": 0},
        {"mem_len": 6, "same_length": True},
    ],
    ids=str,
)
def test_layer_follows_the_paper(impl, options):
    """Outputs, gradients of weights and input; a swapped memory update or `[-0:]` shows here."""
    layer, x = mixer(impl, **options), random_x(29, 1).requires_grad_()
    window = options["mem_len"] if options.get("same_length") else None
    expected, memory = layer_by_hand(layer, x, 8, options["mem_len"], window, options.get("clamp_len"))
    found, state = layer(x, None)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=0)
    weight = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    leaves = [x, *layer.parameters()]
    expected_gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    for a, b in zip(torch.autograd.grad((found * weight).sum(), leaves), expected_gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)
    unfinished = 29 % 8
    start = 29 - unfinished
    torch.testing.assert_close(state.inner.entries, x[:, max(0, start - options["mem_len"]) :])
    assert memory.shape[1] == min(29, options["mem_len"])


@pytest.mark.parametrize("cache", ["hidden", "kv"])
@pytest.mark.parametrize("mem_len", [0, 5, 8, 21])
@pytest.mark.parametrize("lengths", [[1] * 45, [8, 16, 21], [3, 20, 0, 1, 21], [44, 1]], ids=str)
def test_cutting_anywhere_changes_nothing(cache, mem_len, lengths):
    layer, x = mixer(cache=cache, mem_len=mem_len), random_x(45)
    whole, whole_state = layer(x, None)
    parts, state = run_in_calls(layer, x, lengths)
    torch.testing.assert_close(parts, whole, atol=1e-11, rtol=0)
    torch.testing.assert_close(state.inner.entries, whole_state.inner.entries, atol=1e-11, rtol=0)
    assert state.position == whole_state.position == 45
    gradients = [torch.autograd.grad(y.square().sum(), list(layer.parameters())) for y in (parts, whole)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


def test_kv_cache_gives_the_same_outputs():
    x = random_x(45)
    hidden, kv = (mixer(cache=cache, mem_len=12)(x, None)[0] for cache in ("hidden", "kv"))
    torch.testing.assert_close(kv, hidden, atol=1e-12, rtol=0)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_memory_gets_no_gradient_but_its_projections_do(impl):
    layer = mixer(impl, mem_len=8)
    first, second = random_x(8, 1).requires_grad_(), random_x(9, 1)[:, :8]
    weights = [layer.k.weight, layer.v.weight]
    y, _ = layer(torch.cat([first, second], 1), None)
    y[:, 8:].sum().backward(inputs=[first, *weights])
    assert not first.grad.any()
    with_memory = [w.grad.clone() for w in weights]
    for w in weights:
        w.grad = None
    q = layer.q(second).unflatten(2, (4, 8))
    seen = torch.cat([first.detach(), second], 1)
    k, v = (f(seen).unflatten(2, (4, 8)) for f in (layer.k, layer.v))
    k = torch.cat([k[:, :8].detach(), k[:, 8:]], 1)
    v = torch.cat([v[:, :8].detach(), v[:, 8:]], 1)
    rel_k = torch.einsum("re,hde->rhd", sinusoids(16, 32, dtype=torch.float64), layer.relative)
    o = relative_attention(q, k, v, rel_k, layer.content_bias, layer.position_bias, impl="reference")
    layer.out(o.flatten(2)).sum().backward(inputs=weights)
    for a, b in zip(with_memory, weights, strict=True):
        assert (a - b.grad).abs().max() > 1e-3


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_memory_of_the_whole_past_makes_segments_one(impl):
    tokens = torch.randint(50, (2, 50), generator=torch.Generator().manual_seed(0))
    logits = []
    for segment_len in (50, 7, 16):
        torch.manual_seed(0)
        spec = f"transformer_xl:segment_len={segment_len}:mem_len=50"
        logits.append(Decoder(CONFIG, spec, impl=impl).double()(tokens)[0])
    torch.testing.assert_close(logits[1], logits[0], atol=1e-10, rtol=0)
    torch.testing.assert_close(logits[2], logits[0], atol=1e-10, rtol=0)


def test_memory_starts_empty_and_stays_within_its_length():
    layer = mixer(mem_len=12)
    state, sizes = None, []
    for token in random_x(40).split(1, 1):
        _, state = layer(token, state)
        sizes.append(state.inner.entries.shape[1])
    assert sizes[:12] == list(range(1, 13))
    assert max(sizes) == 12 + 7
    assert sizes[31] == 12


def test_same_length_counts_the_query_itself():
    """With mem_len = 1 a query sees itself alone, so that the output is its own value."""
    layer, x = mixer(mem_len=1, same_length=True), random_x(20)
    torch.testing.assert_close(layer(x, None)[0], layer.out(layer.v(x)), atol=1e-12, rtol=0)


def test_same_length_without_memory_is_refused():
    """A fault elsewhere: NaN."""
    with pytest.raises(LongAtlasError, match=r"same_length.*mem_len 0"):
        Decoder(CONFIG, "transformer_xl:mem_len=0:same_length=true")


def test_state_of_a_long_call_holds_no_more_than_its_entries():
    _, state = mixer()(random_x(45), None)
    with torch.no_grad():
        _, state = mixer()(random_x(45), None)
    assert state.inner.entries.untyped_storage().nbytes() == state.inner.entries.nbytes


def test_grouped_heads_equal_repeated_ones():
    grouped_config = DecoderConfig(d_model=32, n_heads=4, n_kv_heads=2)
    x = random_x(20)
    for cache in ("hidden", "kv"):
        grouped, full = mixer(config=grouped_config, cache=cache), mixer(cache=cache)
        weights = dict(grouped.state_dict())
        for name in ("k.weight", "v.weight"):
            weights[name] = weights[name].view(2, 8, 32).repeat_interleave(2, 0).reshape(32, 32)
        full.load_state_dict(weights)
        for lengths in ([20], [1] * 20):
            found, expected = (run_in_calls(layer, x, lengths)[0] for layer in (grouped, full))
            torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_works_after_a_first_call_in_inference_mode():
    layer = mixer(mem_len=9, segment_len=11)
    sinusoids.cache_clear()
    with torch.inference_mode():
        layer(random_x(30), None)
    layer(random_x(30), None)[0].sum().backward()
    assert isinstance(layer, TransformerXL)


@pytest.mark.parametrize("options", [":cache=kv", ":same_length=true", ":mem_len=128:clamp_len=40"])
def test_conformance(options):
    check_method("transformer_xl" + options)


def test_clamped_rows_sum_their_gradient_before_rounding():
    inputs = make_inputs(1, 8, 600, 1, 16, 16, 3, torch.bfloat16)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    for impl, args in (("torch", inputs), ("reference", exact)):
        o = relative_attention(*args, clamp_len=2, scale=0.02, impl=impl)
        o.backward(torch.ones_like(o).cumsum(1))
    want = exact[3].grad
    assert (inputs[3].grad.double() - want).norm() < 4e-3 * want.norm()


@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_autocast_leaves_the_sums_in_fp32(impl):
    inputs = [x.detach() for x in make_inputs(2, 40, 70, 2, 16, 16, 70, torch.bfloat16)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o = relative_attention(*inputs, impl=impl)
    assert torch.equal(o, relative_attention(*inputs, impl=impl))


@pytest.mark.parametrize("name", ["k", "v", "rel_k", "content_bias", "position_bias"])
def test_other_dtypes_are_named(name):
    names = ["q", "k", "v", "rel_k", "content_bias", "position_bias"]
    inputs = dict(zip(names, (x.detach() for x in make_inputs(1, 4, 6, 2, 16, 16, 6, torch.float32)), strict=True))
    with pytest.raises(LongAtlasError, match=f"{name} .*torch.int64"):
        relative_attention(**{**inputs, name: inputs[name].long()})
