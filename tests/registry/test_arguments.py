"""Checks of operations' arguments, and the mixer that has projections."""

import pytest
import torch
from torch import nn

from longatlas import DecoderConfig, LongAtlasError, ProjectedMixer
from longatlas.decoder.builders import takes_here
from longatlas.ops import arguments

Q = torch.zeros(2, 8, 4, 6)


@pytest.mark.parametrize(
    ("changed", "settings", "words"),
    [
        ({"q": [[1.0]]}, {}, "q is a list; it must be a torch.Tensor"),
        ({"q": torch.zeros(8, 4, 6)}, {}, r"q has shape \[8, 4, 6\]; it must be \[B, T, H, D\]$"),
        ({"k": torch.zeros(2, 9, 4, 6)}, {}, r"k has shape .*; it must be \[B, T, H, D\] = \[2, 8, 4, 6\]"),
        ({"k": torch.zeros(2, 8, 4, 5)}, {"grouped": True}, r"it must be \[B, T, Hkv, D\] = \[2, 8, Hkv, 6\]"),
        ({"v": torch.zeros(2, 8, 2, 3)}, {}, r"v has shape .*; it must be \[B, T, H, E\] = \[2, 8, 4, E\]"),
        ({"v": torch.zeros(2, 7, 4, 3)}, {"keys": "S"}, r"v has shape .*; it must be \[B, S, H, E\] = \[2, 8, 4, E\]"),
        (
            {"k": Q[:, :, :3], "v": Q[:, :, :3]},
            {"grouped": True},
            "q has 4 heads and k 3; q's heads must be a multiple",
        ),
        ({"k": Q[:, :, :0], "v": Q[:, :, :0]}, {"grouped": True}, "q has 4 heads and k 0"),
    ],
)
def test_what_does_not_fit_is_named(changed, settings, words):
    with pytest.raises(LongAtlasError, match=words):
        arguments.check_qkv(**{"q": Q, "k": Q, "v": Q, **changed}, **settings)


def test_what_fits_is_let_through():
    arguments.check_qkv(Q, Q, torch.zeros(2, 8, 4, 9))
    arguments.check_qkv(Q, Q[:, :, :2], Q[:, :, :2], grouped=True)
    arguments.check_qkv(Q[:, :3], Q, Q, keys="S")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: arguments.check_choice("impl", "cuda", ("auto", "torch")),
            "impl is 'cuda'; it must be one of auto, torch",
        ),
        (lambda: arguments.check_positive(window=3, top_k=0), "top_k is 0; it must be an integer, at least 1"),
        (lambda: arguments.check_positive(window=1.5), "window is 1.5"),
        (lambda: arguments.check_dtypes(q=Q.long(), k=Q), "q has dtype torch.int64; it must be one of torch.float64"),
        (lambda: arguments.check_dtypes(q=Q, k=Q.double()), "k has dtype torch.float64; it must be q's, torch.float32"),
        (
            lambda: arguments.check_state_dtype("s", Q.half(), Q.half()),
            "s has dtype .*float16; .*must be torch.float32",
        ),
        (lambda: arguments.check_same_device(q=Q, k=Q.to("meta")), "k is on meta, q on cpu; move them to one device"),
        (
            lambda: arguments.check_shape("state.k", Q, "B R H D", (2, 3, 4, 6), "at position 9"),
            r"state.k has shape \[2, 8, 4, 6\]; at position 9 it must be \[B, R, H, D\] = \[2, 3, 4, 6\]",
        ),
    ],
)
def test_other_checks(call, words):
    with pytest.raises(LongAtlasError, match=words):
        call()


def test_heads_are_repeated_until_there_are_enough():
    (more,) = arguments.repeated(4, torch.arange(2.0).view(1, 1, 2, 1))
    assert more.flatten().tolist() == [0, 0, 1, 1]
    assert arguments.repeated(4, Q)[0] is Q


class Values(ProjectedMixer):
    """o = v, and the number of calls as its state."""

    def mix(self, q, k, v, state):
        return arguments.repeated(q.shape[2], v)[0], (state or 0) + 1


class Places(Values):
    def mix(self, q, k, v, state, here):
        return super().mix(q, k, v, here)


class Gated(Values):
    def __init__(self, config):
        super().__init__(config, out=False)
        self.gate = nn.Linear(config.d_model, config.width)
        self.out = self.projection_out(config)

    def finish(self, o, x):
        return self.out(o.flatten(2) * self.gate(x))


def test_a_subclass_gives_the_operation_and_what_lies_around_it():
    config, x = DecoderConfig(d_model=12, n_heads=4, n_kv_heads=2), torch.randn(2, 5, 12)
    values, gated = Values(config), Gated(config)
    y, state = values(x, None)
    by_hand = values.out(values.v(x).unflatten(2, (2, 3)).repeat_interleave(2, 2).flatten(2))
    torch.testing.assert_close(y, by_hand)
    assert (values(x, state)[1], takes_here(values)) == (2, False)
    assert (Places(config)(x, None, 6)[1], takes_here(Places(config))) == (7, True)
    assert list(dict(values.named_children())) == ["q", "k", "v", "out"]
    assert list(dict(gated.named_children())) == ["q", "k", "v", "gate", "out"]
    assert gated(x, None)[0].shape == x.shape


def test_a_mixer_without_an_operation_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="ProjectedMixer has no mix"):
        ProjectedMixer(DecoderConfig())(torch.zeros(1, 2, 128), None)
