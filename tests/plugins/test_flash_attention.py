"""FlashAttention: vanilla's results and gradients, without vanilla's score matrix."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longatlas import Decoder, DecoderConfig

CONFIG = DecoderConfig(vocab_size=31, d_model=16, n_layers=1, n_heads=2)


def build(spec, dtype=torch.float64):
    torch.manual_seed(0)
    return Decoder(CONFIG, spec).to(dtype)


def tokens(length):
    return torch.randint(31, (1, length), generator=torch.Generator().manual_seed(1))


def results(decoder, length, cut):
    first, state = decoder(tokens(length)[:, :cut])
    second, _ = decoder(tokens(length)[:, cut:], state)
    logits = torch.cat([first, second], 1)
    logits.square().sum().backward()
    return [logits, *(p.grad for p in decoder.parameters())]


@pytest.mark.parametrize("position", ["", "alibi+", "yarn+"])
@pytest.mark.parametrize(("length", "cut"), [(2, 1), (63, 62), (130, 47)])
def test_it_is_exact_attention(position, length, cut):
    """Vanilla fills `position` itself, so the other positions are compared with the reference."""
    reference = torch.manual_seed(0) and Decoder(CONFIG, f"{position}flash_attention", impl="reference").double()
    others = [reference] if position else [reference, build("vanilla")]
    for other in others:
        found = results(build(f"{position}flash_attention"), length, cut)
        for a, b in zip(found, results(other, length, cut), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


class Largest(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        sizes = [x.untyped_storage().nbytes() // x.element_size() for x in tree_leaves(result) if torch.is_tensor(x)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def test_the_score_matrix_is_never_held():
    largest = {}
    for spec in ("vanilla", "flash_attention"):
        with Largest() as meter:
            build(spec, torch.float32)(tokens(2048))[0].sum().backward()
        largest[spec] = meter.elements
    assert largest["vanilla"] >= 2 * 2048**2
    assert largest["flash_attention"] <= 2048 * 128
