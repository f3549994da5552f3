"""The checks: each takes a Case and raises AssertionError (it fails) or SkipCheck (it does not apply)."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch

from longatlas.catalog import impl_obstacle
from longatlas.combination import Combination
from longatlas.decoder.decoder import Decoder
from longatlas.decoder.slot_mixer import SlotOperation
from longatlas.decoder.state import here, state_bytes, tensors
from longatlas.decoder.teacher import give_random_teacher
from longatlas.errors import UnsupportedError
from longatlas.kernels import is_interpreting
from longatlas.parallel import Launcher
from longatlas.slots import Context
from longatlas.testing.case import Case
from longatlas.testing.compare import EXACT, require, require_close
from longatlas.testing.heads import permute_heads
from longatlas.testing.impls import compare_impl
from longatlas.testing.ranks import compare_ranks
from longatlas.testing.report import SkipCheck
from longatlas.words import BASELINE

RANKS = (2, 4)


def builds(case: Case) -> None:
    """A decoder can be built with the default options and with scaled ones, in every impl."""
    for impl in ("auto", "reference"):
        case.decoder(impl=impl)
        case.decoder(impl=impl, defaults=True)


def shape_and_dtype(case: Case) -> None:
    """Logits are [B, T, V] in the weights' dtype and finite, in fp64, fp32 and bf16.

    Of a context they are those of the tokens that it answers.
    """
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        decoder, tokens = case.decoder(dtype=dtype), case.tokens(70)
        with torch.no_grad():
            logits, _ = decoder(tokens)
            length = 70 if decoder.context is None else decoder.context.answered(decoder.prompt(tokens))
        expected = [2, length, case.config.vocab_size]
        require(list(logits.shape) == expected, f"logits are {list(logits.shape)}, not {expected}")
        require(logits.dtype == dtype, f"logits of a {dtype} decoder are {logits.dtype}")
        require(bool(torch.isfinite(logits).all()), f"logits in {dtype} are not finite everywhere")


def odd_lengths(case: Case) -> None:
    """Lengths 1, 63 and 500 work with the default options and with scaled ones."""
    for length in (1, 63, 500):
        for defaults in (True, False):
            with torch.no_grad():
                logits, _ = case.decoder(dtype=torch.float32, defaults=defaults)(case.tokens(length))
            require(bool(torch.isfinite(logits).all()), f"logits at T = {length} are not finite everywhere")


def causality(case: Case) -> None:
    """Changing token t changes no output before t, and does change the output at t."""
    decoder = case.decoder()
    tokens = case.tokens(150)
    with torch.no_grad():
        state = case.start(decoder)
        before, _ = decoder(tokens, state)
        for t in (1, 47, 48, 97, 149):
            changed = tokens.clone()
            changed[:, t] = (changed[:, t] + 1) % case.config.vocab_size
            after, _ = decoder(changed, state)
            worst = float((after[:, :t] - before[:, :t]).abs().max())
            require(worst <= EXACT, f"changing token {t} of 150 changes an output before it by {worst:.2e}")
            require(not torch.equal(after[:, t], before[:, t]), f"changing token {t} leaves its output as it was")
        if decoder.context is not None:
            _check_answers(case, decoder, decoder.context)


def _check_answers(case: Case, decoder: Decoder, context: Context) -> None:
    """What a context answers are the input's last tokens; changing one changes its answer, and none before it."""
    tokens = case.tokens(200, seed=7)
    prompt = decoder.prompt(tokens)
    n = context.answered(prompt)
    same = torch.equal(prompt.tail[:, -n:], tokens[:, -n:])
    require(same, f"the tail does not end with the input's last {n} tokens, which it answers")
    before, _ = decoder(tokens)
    for t in sorted({0, n // 2, n - 1}):
        changed = tokens.clone()
        changed[:, t - n] = (changed[:, t - n] + 1) % case.config.vocab_size
        after, _ = decoder(changed)
        what = f"changing token {200 - n + t} of a prompt of 200"
        require(after.shape == before.shape, f"{what} changes the number of its answers")
        require_close(after[:, :t], before[:, :t], EXACT, f"{what}: the answers before it")
        require(not torch.equal(after[:, t], before[:, t]), f"{what} leaves its answer as it was")


def segments_equal_whole(case: Case) -> None:
    """A sequence read in pieces, cut anywhere, gives the same outputs and the same state as in one call."""
    _compare_pieces(case, [1, 47, 1, 63, 80, 8], 200)
    _compare_pieces(case, [96, 104], 200)


def decode_equals_prefill(case: Case) -> None:
    """Token by token gives the same outputs and the same state as one call."""
    _compare_pieces(case, [1] * 110, 110)


def _compare_pieces(case: Case, pieces: Sequence[int], length: int) -> None:
    decoder = case.decoder()
    tokens = case.tokens(length)
    with torch.no_grad():
        state = case.start(decoder)
        whole, whole_state = decoder(tokens, state)
        outputs = []
        for piece in torch.split(tokens, list(pieces), 1):
            output, state = decoder(piece, state)
            outputs.append(output)
    what = f"{length} tokens in {len(pieces)} calls against one call: "
    require_close(torch.cat(outputs, 1), whole, EXACT, what + "the output")
    _compare_states(state, whole_state, [EXACT] * len(tensors(whole_state)), what)


def _compare_states(found: Any, expected: Any, tolerances: Sequence[float], what: str) -> None:
    a, b = tensors(found), tensors(expected)
    require(len(a) == len(b), f"{what}the final state has {len(a)} tensors, not {len(b)}")
    for i, (x, y, tolerance) in enumerate(zip(a, b, tolerances, strict=True)):
        require_close(x, y, tolerance, f"{what}tensor {i} of the final state")


def finite_gradients(case: Case) -> None:
    """The training loss gives every parameter a gradient that is finite and not all zero."""
    decoder = give_random_teacher(case.decoder(dtype=torch.float32, train=True))
    _skip_if_untrained(decoder)
    decoder.loss(case.tokens(200)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in decoder.named_parameters():
        if not parameter.requires_grad:
            continue
        require(parameter.grad is not None, f"parameter '{name}' gets no gradient")
        assert parameter.grad is not None
        require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of '{name}' is not finite")
        require(bool((parameter.grad != 0).any()), f"the gradient of '{name}' is zero everywhere")


def impls_match_reference(case: Case) -> str:
    """Every impl that can run here gives the reference's outputs, final state and gradients, in fp64 and in fp32."""
    left_out = []
    for impl in case.combination.impls:
        hindrance = "" if is_interpreting() else impl_obstacle(impl, case.device)
        if hindrance:
            left_out.append(f"impl '{impl}' was not compared: {hindrance}")
        elif impl != "reference":
            for length in (1, 63, 130):
                compare_impl(case, impl, length)
    return "; ".join(left_out)


def equals_vanilla(case: Case) -> None:
    """A method whose card says `exact` gives vanilla's logits from the same weights."""
    if not case.combination.exact:
        raise SkipCheck("its card does not say that it is exact")
    decoder = case.decoder()
    torch.manual_seed(0)
    vanilla = Decoder(case.config, BASELINE).to(case.device, torch.float64).eval()
    vanilla.load_state_dict(decoder.state_dict())
    with torch.no_grad():
        tokens = case.tokens(150)
        require_close(decoder(tokens)[0], vanilla(tokens)[0], EXACT, "logits beside vanilla's")


def ranks_equal_one(case: Case) -> None:
    """2 and 4 ranks give the outputs, the final state and all gradients of one, on every rank, where the card says
    ranks=True; on GPUs as many as there are."""
    if not case.combination.ranks:
        raise SkipCheck("its card does not say that it computes with several ranks")
    most = torch.cuda.device_count() if case.device == "cuda" else max(RANKS)
    if most < min(RANKS):
        raise SkipCheck(f"it takes {min(RANKS)} GPUs, and there is {most}")
    with Launcher() as launcher:
        for n in RANKS:
            if n <= most:
                compare_ranks(case, n, "auto", launcher)


def batch_permutation(case: Case) -> None:
    """Sequences of a batch do not influence one another."""
    decoder = case.decoder()
    tokens = case.tokens(150, batch=3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        require_close(decoder(tokens[order])[0], decoder(tokens)[0][order], EXACT, "a permuted batch")
        require_close(decoder(tokens[:1])[0], decoder(tokens)[0][:1], EXACT, "a sequence on its own")


def head_permutation(case: Case) -> None:
    """Renaming the heads changes nothing; heads that differ by index are independent of one another."""
    decoder = case.decoder()
    tokens = case.tokens(150)
    with torch.no_grad():
        before = decoder(tokens)[0]
        if _heads_differ(decoder):
            _check_independence(decoder, case)
            return
        permute_heads(decoder, torch.tensor([2, 0, 3, 1]))
        require_close(decoder(tokens)[0], before, EXACT, "the output with permuted heads")


def _operations(decoder: Decoder) -> list[SlotOperation]:
    return [m for m in decoder.modules() if isinstance(m, SlotOperation)]


def _heads_differ(decoder: Decoder) -> bool:
    """Whether heads differ by index: by a score_mod, or by a mask that says so."""
    operations = _operations(decoder)
    return any(o.position.score_mod is not None or getattr(o.attention.mask_mod, "per_head", False) for o in operations)


def _check_independence(decoder: Decoder, case: Case) -> None:
    config = case.config
    generator = torch.Generator().manual_seed(5)
    shape = (2, 150, config.n_heads, config.head_size)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(case.device) for _ in range(3))
    now = here(0, q)
    for each in _operations(decoder):
        before, _ = each.mix(q, k, v, None, now)
        new_q, new_k, new_v = (torch.cat([-x[:, :, :1] + 0.5, x[:, :, 1:]], 2) for x in (q, k, v))
        after, _ = each.mix(new_q, new_k, new_v, None, now)
        require_close(after[:, :, 1:], before[:, :, 1:], EXACT, "heads 1 to 3 after a change of head 0")


def state_growth(case: Case) -> None:
    """The state's measured bytes grow with T as the card claims: constant, log or linear."""
    lengths = (512, 1024, 2048, 4096)
    sizes = _state_sizes(case, lengths)
    found = growth_of(sizes)
    claimed = _claimed_growth(case.combination)
    pairs = ", ".join(f"{s} bytes at T = {t}" for t, s in zip(lengths, sizes, strict=True))
    hint = (
        "; a slice keeps all that it was cut from: .clone() it" if claimed == "constant" and found == "linear" else ""
    )
    require(found == claimed, f"the state grows {found} ({pairs}), but the card claims {claimed}{hint}")


def _state_sizes(case: Case, lengths: Sequence[int]) -> list[int]:
    """Bytes of the state after so many tokens, read on from length to length; a context method is given each whole."""
    decoder, sizes, state, before = case.decoder(dtype=torch.float32), [], None, 0
    tokens = case.tokens(lengths[-1], batch=1)
    with torch.no_grad():
        for length in lengths:
            state = decoder(tokens[:, before:length], state)[1]
            sizes.append(state_bytes(state))
            state, before = (None, 0) if case.is_context else (state, length)
    return sizes


def _claimed_growth(combination: Combination) -> str:
    """The claim of those parts that decide what is kept; without one the plain cache decides."""
    methods = [part.method for part in combination.parts]
    keepers = [m for m in methods if set(m.fills) & {"memory", "mixer", "context"}] or methods
    return max((m.cost.state_growth for m in keepers), key=("constant", "log", "linear").index)


def growth_of(sizes: Sequence[int]) -> str:
    """`constant`, `log` or `linear`, from sizes at lengths that double each time."""
    if sizes[-1] <= 1.02 * max(sizes[:-1]):  # a partly filled segment makes a constant state rise and fall
        return "constant"
    steps = [b - a for a, b in pairwise(sizes)]
    return "linear" if steps[-1] > 1.5 * steps[-2] else "log"


def determinism(case: Case) -> None:
    """The same seed gives the same weights and outputs, bit for bit; a call leaves its state as it was."""
    tokens = case.tokens(150)
    with torch.no_grad():
        first, second = case.decoder(dtype=torch.float32), case.decoder(dtype=torch.float32)
        require(torch.equal(first(tokens)[0], second(tokens)[0]), "two decoders from one seed differ")
        _, state = first(tokens)
        kept = [t.clone() for t in tensors(state)]
        once, again = first(tokens, state)[0], first(tokens, state)[0]
        require(torch.equal(once, again), "two calls from one state differ")
        same = all(torch.equal(a, b) for a, b in zip(kept, tensors(state), strict=True))
        require(same, "a call changed the state that it was given")


def save_and_load(case: Case) -> None:
    """Weights and state survive a round trip through a file."""
    tokens = case.tokens(100)
    first, second = case.decoder(dtype=torch.float32), case.decoder(dtype=torch.float32, seed=9)
    with torch.no_grad():
        _, state = first(tokens)
        second.load_state_dict(_round_trip(first.state_dict()))
        expected = first(tokens, state)[0]
        found = second(tokens, _round_trip(state))[0]
    require(torch.equal(found, expected), "a decoder and state loaded from a file continue differently")


def _round_trip(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


def _skip_if_untrained(decoder: Decoder) -> None:
    try:
        decoder.check_trains()
    except UnsupportedError as reason:
        raise SkipCheck(str(reason)) from None


# A check raises AssertionError where a method breaks it; what it returns is told beside "passed".
Check = Callable[[Case], str | None]

CHECKS: tuple[Check, ...] = (
    builds,
    shape_and_dtype,
    odd_lengths,
    causality,
    segments_equal_whole,
    decode_equals_prefill,
    finite_gradients,
    impls_match_reference,
    equals_vanilla,
    ranks_equal_one,
    batch_permutation,
    head_permutation,
    state_growth,
    determinism,
    save_and_load,
)

SEGMENTATION = (segments_equal_whole, decode_equals_prefill)
