"""Planted faults: each wrong method turns the check red that is there for it."""

import pytest
import torch
from torch import nn

from longatlas import Attention, Cost, Memory, Method, UnknownNameError
from longatlas.decoder.defaults import SwiGLU, grow_cache, keep
from longatlas.ops import blockwise_attention
from longatlas.testing import ConformanceError, check_method, checks, runner, verify_method


def method(fills, **changes):
    facts = {"name": "planted", "title": "Planted", "family": "misc/objectives", "summary": "One.", "fills": fills}
    return Method(**{**facts, **changes})


def softmax(q, k, v, where):
    return blockwise_attention(q, k, v, q_positions=where.q_positions, k_positions=where.k_positions)


def attention(forward, **changes):
    return method({"attention": lambda config: Attention(forward=forward)}, **changes)


def memory(extend, **changes):
    return method({"memory": lambda config: Memory(extend)}, **changes)


def impls(torch_forward):
    def build(config, *, impl):
        return Attention(forward=softmax if impl == "reference" else torch_forward)

    return method({"attention": build}, impls=("torch", "reference"))


def sees_the_future(q, k, v, where):
    return blockwise_attention(
        q, k, v, q_positions=torch.full_like(where.q_positions, 10**9), k_positions=where.k_positions
    )


def sees_one_token_of_the_future(q, k, v, where):
    return blockwise_attention(q, k, v, q_positions=where.q_positions + 1, k_positions=where.k_positions)


def decodes_otherwise(q, k, v, where):
    return softmax(q * (1.001 if q.shape[1] == 1 else 1.0), k, v, where)


def mixes_heads(q, k, v, where):
    o = softmax(q, k, v, where)
    return o + 0.01 * o.roll(1, 2)


def draws_numbers(q, k, v, where):
    return softmax(q, k, v, where) + 1e-3 * torch.randn_like(q)


def always_single(q, k, v, where):
    return softmax(q, k, v, where).float().double()


def no_number_alone(q, k, v, where):
    o = softmax(q, k, v, where)
    return o / (q.shape[1] - 1) if q.shape[1] == 1 else o


def other_scale(q, k, v, where):
    return softmax(q * 1.00001, k, v, where)


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.01


def wrong_gradient(q, k, v, where):
    return softmax(q, _WrongGradient.apply(k), v, where)


def leaks_across_the_batch(k, v, past, here):
    return grow_cache(k, v + 0.01 * v.mean(0, keepdim=True), past, here)


def changes_its_state(k, v, past, here):
    seen = grow_cache(k, v, past, here)
    if past is not None:
        past.v.mul_(0.5)
    return seen


def evicts_between_calls(k, v, past, here):
    seen = grow_cache(k, v, past, here)
    return keep(seen, seen.positions >= here.end - 32)


def hidden_on_itself(config):
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(config.d_model, config.d_model)
            self.total = 0

        def forward(self, x, state):
            y = self.out(x.cumsum(1) * 0.1 + (0 if state is None else self.total))
            self.total = x.sum(1, keepdim=True).detach() * 0.1
            return y, torch.zeros(1)

    return Hidden()


class Unused(SwiGLU):
    def __init__(self, config):
        super().__init__(config)
        self.forgotten = nn.Parameter(torch.ones(3))


class Detached(SwiGLU):
    def forward(self, x):
        return super().forward(x.detach()).detach() + 0 * super().forward(x)


def broken_builder(config):
    raise RuntimeError("no such thing")


FAULTS = {
    "future": (attention(sees_the_future), "causality"),
    "one_ahead": (attention(sees_one_token_of_the_future), "causality"),
    "batch": (memory(leaks_across_the_batch), "batch_permutation"),
    "decode": (attention(decodes_otherwise), "decode_equals_prefill"),
    "evicts": (memory(evicts_between_calls, cost=Cost("T^2", "W")), "segments_equal_whole"),
    "grows": (memory(grow_cache, cost=Cost("T*W", "W")), "state_growth"),
    "stays": (attention(softmax, cost=Cost("T^2", "log(T)")), "state_growth"),
    "gradient": (impls(wrong_gradient), "impls_match_reference"),
    "other_impl": (impls(other_scale), "impls_match_reference"),
    "heads": (attention(mixes_heads), "head_permutation"),
    "random": (attention(draws_numbers), "determinism"),
    "in_place": (memory(changes_its_state), "determinism"),
    "hidden": (method({"mixer": hidden_on_itself}, cost=Cost("T", "1")), "segments_equal_whole"),
    "dtype": (attention(always_single), "shape_and_dtype"),
    "alone": (attention(no_number_alone), "odd_lengths"),
    "unused": (method({"ffn": Unused}), "finite_gradients"),
    "zero_gradient": (method({"ffn": Detached}), "finite_gradients"),
    "builder": (method({"ffn": broken_builder}), "builds"),
    "no_module": (method({"ffn": lambda config: print}), "builds"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_turns_its_check_red(fault, monkeypatch):
    wrong, check = FAULTS[fault]
    monkeypatch.setattr(runner, "CHECKS", (getattr(checks, check),))
    report = verify_method(wrong)
    assert not report.ok
    (failure,) = report.failures
    assert (failure.check, bool(failure.detail)) == (check, True)


@pytest.mark.parametrize("right", [attention(softmax), memory(grow_cache), impls(softmax)])
def test_what_the_faults_were_planted_in_is_green(right):
    assert check_method(right).ok


def test_a_departure_that_the_card_declares_is_reported_not_failed():
    honest = memory(
        evicts_between_calls, cost=Cost("T^2", "W"), deviations="Evicts between calls.", departs=("segments",)
    )
    report = check_method(honest)
    declared = {result.check: result.detail for result in report.results if result.status == "declared"}
    assert set(declared) == {"segments_equal_whole", "decode_equals_prefill"}
    assert "Evicts between calls." in declared["segments_equal_whole"]


def test_a_declared_departure_excuses_nothing_else():
    wrong = attention(sees_the_future, departs=("segments",))
    assert "causality" in {result.check for result in verify_method(wrong).failures}


def test_a_state_that_is_a_slice_is_told_to_clone():
    def last_four(k, v, past, here):
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        return k, v, (k[:, -4:], v[:, -4:])

    wrong = memory(last_four, cost=Cost("T^2", "W"), departs=("segments",))
    (failure,) = verify_method(wrong).failures
    assert failure.check == "state_growth"
    assert "claims constant; a slice keeps all that it was cut from: .clone() it" in failure.detail


def test_check_method_raises_with_a_list_of_what_failed():
    with pytest.raises(ConformanceError, match=r"method 'planted' fails .*\n.*causality: changing token") as error:
        check_method(attention(sees_the_future))
    assert isinstance(error.value, AssertionError)
    assert not error.value.report.ok


def test_what_cannot_run_here_fails_with_the_remedy():
    report = verify_method(attention(softmax, requires=("no_such_module",)))
    assert report.failures[0].detail == "needs no_such_module: pip install no_such_module"


def test_an_unknown_name_is_bad_input():
    with pytest.raises(UnknownNameError, match="did you mean 'yarn'"):
        check_method("yran")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    verify_method(method({"ffn": broken_builder}))
    assert torch.get_num_threads() == before
