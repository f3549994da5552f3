"""Contexts that read the decoder, and one that trains: small methods, each with an oracle, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from longatlas import (
    Context,
    Cost,
    Decoder,
    DecoderConfig,
    LongAtlasError,
    Method,
    Option,
    Position,
    Prompt,
    Read,
    UnsupportedError,
    losses,
)
from longatlas.combination import Combination, Part, as_combination
from longatlas.decoder.defaults import KVCache, SwiGLU
from longatlas.decoder.state import BlockState, DecoderState
from longatlas.decoder.state import detached as detached_state
from longatlas.measure import levels
from longatlas.tasks import language_model, passkey, scores
from longatlas.testing import check_method, checks, runner, verify_method

CONFIG = DecoderConfig(vocab_size=31, d_model=32, n_layers=2, n_heads=4)


def tokens(length: int, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(31, (batch, length), generator=torch.Generator().manual_seed(seed))


def method(build: Callable[..., Any], **changes: Any) -> Method:
    facts = {"name": "mine", "title": "Mine", "family": "misc/objectives", "summary": "One.", "training": "retrofit"}
    return Method(**{**facts, "fills": {"context": build}, **changes})


def build(what: Method | str = "vanilla", config: DecoderConfig = CONFIG, **options: int) -> Decoder:
    torch.manual_seed(0)
    if isinstance(what, Method):
        return Decoder(config, Combination((Part(what, what.resolve_options(options)),))).double()
    return Decoder(config, what).double()


def folded(text: Tensor, window: int) -> Tensor:
    """Text [B, n W] as windows of W tokens [B n, W], those of one text together."""
    return text.unflatten(1, (-1, window)).flatten(0, 1)


# A context that generates: after the shape of map and reduce.


def notes(config: DecoderConfig, *, query_len: int, chunk_len: int, note_len: int) -> Context:
    """Every chunk is read with the query after it, and the decoder's notes stand in the chunks' places."""

    def split(text: Tensor, read: Read) -> Prompt:
        query = text[:, -query_len:]
        count = (text.shape[1] - query.shape[1]) // chunk_len
        if not count:
            return Prompt((), text)
        rest = text.shape[1] - query.shape[1] - count * chunk_len
        asked = query.repeat_interleave(count, 0)
        chunks = folded(text[:, rest : rest + count * chunk_len], chunk_len)
        made = read.generate(torch.cat([chunks, asked], 1), note_len).view(len(text), -1)
        return Prompt((), torch.cat([text[:, :rest], made, query], 1))

    return Context(split)


NOTES = method(
    notes,
    options=(
        Option("query_len", 16, "last tokens", unit="tokens", min=1),
        Option("chunk_len", 16, "tokens of a chunk", unit="tokens", min=1),
        Option("note_len", 4, "tokens written of each", min=1),
    ),
    cost=Cost("T*C", "T/C"),
)


@torch.no_grad()
def test_a_context_writes_what_is_read() -> None:
    """The notes are those that the plain decoder writes when it reads all again for every token."""
    text, plain = tokens(46), build()
    decoder = build(NOTES, query_len=5, chunk_len=10, note_len=3)
    expected = [text[:, :1]]
    for start in range(1, 41, 10):
        seen = torch.cat([text[:, start : start + 10], text[:, -5:]], 1)
        for _ in range(3):
            seen = torch.cat([seen, plain(seen)[0][:, -1:].argmax(-1)], 1)
        expected.append(seen[:, -3:])
    tail = torch.cat([*expected, text[:, -5:]], 1)
    assert torch.equal(decoder.prompt(text).tail, tail)
    torch.testing.assert_close(decoder(text)[0], plain(tail)[0][:, -1:], rtol=0, atol=1e-10)


# A context that selects by the decoder's own probabilities: after the shape of Selective Context.


def surprising(config: DecoderConfig, *, query_len: int, unit: int, budget: int) -> Context:
    """Of all units of the text before the query, those whose tokens the decoder expects least; the order stays."""

    def split(text: Tensor, read: Read) -> Prompt:
        query = text[:, -query_len:]
        count = (text.shape[1] - query.shape[1]) // unit
        if count <= budget // unit:
            return Prompt((), text, query.shape[1])
        start = text.shape[1] - query.shape[1] - count * unit
        before = text[:, : start + count * unit]
        logp = read.logits(before).log_softmax(-1)[:, :-1].gather(2, before[:, 1:, None])[:, :, 0]
        information = functional.pad(-logp, (1, 0), value=1e9)[:, start:]  # the first token is kept
        score = information.unflatten(1, (-1, unit)).sum(2)
        best = score.topk(budget // unit, 1).indices.sort(1).values  # [B, m]
        units = before[:, start:].unflatten(1, (-1, unit))
        kept = units.gather(1, best[:, :, None].expand(-1, -1, unit)).flatten(1)
        return Prompt((), torch.cat([kept, query], 1), query.shape[1])

    return Context(split, scores="tail")


SURPRISING = method(
    surprising,
    options=(
        Option("query_len", 16, "last tokens", unit="tokens", min=1),
        Option("unit", 4, "tokens of a unit", min=1),
        Option("budget", 48, "tokens kept", unit="tokens", min=4),
    ),
    cost=Cost("T^2", "W"),
)


@torch.no_grad()
def test_a_context_selects_by_the_decoders_own_probabilities() -> None:
    text, plain = tokens(45), build()
    decoder = build(SURPRISING, query_len=5, unit=4, budget=12)
    prompt = decoder.prompt(text)
    for row, tail in zip(text, prompt.tail.tolist(), strict=True):
        loss = functional.cross_entropy(plain(row[None, :40])[0][0, :-1], row[1:40], reduction="none").tolist()
        sums = {u: sum(loss[4 * u - 1 : 4 * u + 3]) if u else 1e9 for u in range(10)}
        best = sorted(sorted(sums, key=lambda u: -sums[u])[:3])
        assert tail == [t for u in best for t in row.tolist()[4 * u : 4 * u + 4]] + row.tolist()[40:]
    logits, _ = decoder(text)
    torch.testing.assert_close(logits, plain(prompt.tail)[0][:, -5:], rtol=0, atol=1e-10)
    assert torch.equal(decoder.prompt(text[:, :17]).tail, text[:, :17]), "a text within the budget is left alone"


# A context that trains, with weights of its own: after the shape of Fusion-in-Decoder.


class Fusion(nn.Module):
    """Windows read side by side in one call; before their keys stand learnt ones."""

    def __init__(self, config: DecoderConfig, query_len: int, window: int) -> None:
        super().__init__()
        self.query_len, self.window = query_len, window
        self.soft = nn.Parameter(torch.randn(config.kv_heads, config.n_layers, 2, 3, config.head_size))

    def split(self, text: Tensor) -> Prompt:
        count = max(text.shape[1] - self.query_len, 0) // self.window
        if not count:
            return Prompt((), text)
        before, tail = text[:, : count * self.window], text[:, count * self.window :]
        return Prompt([folded(before, self.window)], tail)

    def merge(self, states: Sequence[DecoderState], prompt: Prompt) -> DecoderState:
        (state,) = states
        layers = [
            self._join(block.mixer, *self.soft[:, i].unbind(1), batch=len(prompt.tail))
            for i, block in enumerate(state.layers)
        ]
        return DecoderState(state.position, tuple(BlockState(None, layer) for layer in layers))

    def _join(self, cache: KVCache, k: Tensor, v: Tensor, *, batch: int) -> KVCache:
        """k, v [H, 3, D] are learnt; those of the cache are [B n, W, H, D]."""
        soft = [x.transpose(0, 1).expand(batch, -1, -1, -1) for x in (k, v)]
        kept = [x.unflatten(0, (batch, -1)).flatten(1, 2) for x in (cache.k, cache.v)]
        both = [torch.cat(pair, 1) for pair in zip(soft, kept, strict=True)]
        places = cache.positions.repeat(len(cache.k) // batch)
        return KVCache(*both, torch.cat([torch.zeros_like(places[:1]).expand(k.shape[1]), places]))


def fusion(config: DecoderConfig, *, query_len: int, window: int) -> Context:
    module = Fusion(config, query_len, window)
    return Context(module.split, module.merge, trains=True)


FUSION = method(
    fusion,
    options=(
        Option("query_len", 16, "last tokens, at least", unit="tokens", min=1),
        Option("window", 48, "tokens of a window", unit="tokens", min=1),
    ),
    cost=Cost("T*W", "T"),
    training="train",
)


def by_hand(decoder: Decoder, text: Tensor, window: int, tail: int) -> Tensor:
    """Logits [B, tail, V] of the last tokens, each window read on its own and their caches joined key by key."""
    soft, stack = decoder.get_parameter("context_module.soft"), decoder.core
    states = [stack(part, None)[1] for part in text[:, :-tail].split(window, 1)]
    layers = []
    for i in range(len(stack.blocks)):
        caches = [state.layers[i].mixer for state in states]
        learnt = [soft[:, i, j].transpose(0, 1)[None].repeat(len(text), 1, 1, 1) for j in (0, 1)]
        k, v = (torch.cat([x, *(getattr(c, n) for c in caches)], 1) for x, n in zip(learnt, "kv", strict=True))
        places = torch.tensor([0, 0, 0, *(p for c in caches for p in c.positions.tolist())])
        layers.append(BlockState(None, KVCache(k, v, places)))
    logits: Tensor = stack(text[:, -tail:], DecoderState(window, tuple(layers)))[0]
    return logits


def test_a_context_trains_through_windows_merge_and_tail() -> None:
    """Loss and every gradient against windows that are read one by one; next tokens, and labels in the tail."""
    text, decoder = tokens(40), build(FUSION, query_len=8, window=8)
    labels = torch.full_like(text, losses.NO_LABEL)
    labels[0, -8:], labels[1, -1] = text[0, :8], 3
    chosen = labels[:, -8:] != losses.NO_LABEL
    expected = {
        "labels": functional.cross_entropy(by_hand(decoder, text, 8, 8)[chosen].float(), labels[:, -8:][chosen]),
        "next": functional.cross_entropy(by_hand(decoder, text[:, :-1], 8, 15).flatten(0, 1), text[:, -15:].flatten()),
    }
    for name, loss in {"labels": decoder.loss(text, labels), "next": decoder.loss(text)}.items():
        near = 1e-6 if name == "labels" else 1e-10  # the loss of labels is taken in fp32
        torch.testing.assert_close(loss, expected[name], rtol=near, atol=near)
        parameters = list(decoder.parameters())
        found, oracle = (torch.autograd.grad(x, parameters) for x in (loss, expected[name]))
        for a, b in zip(found, oracle, strict=True):
            torch.testing.assert_close(a, b, rtol=near, atol=near)


def test_gradients_reach_every_window_and_the_contexts_own_weights() -> None:
    """Each token occurs once, so that its row of the embedding stands for its place; finite differences agree."""
    text, decoder = torch.arange(28)[None], build(FUSION, query_len=4, window=8)
    embedding, soft = decoder.core.embedding.weight, decoder.get_parameter("context_module.soft")
    decoder.loss(text).backward()  # type: ignore[no-untyped-call]
    assert embedding.grad is not None
    assert soft.grad is not None
    assert bool((embedding.grad[:27].abs().sum(1) > 0).all())
    for weight, place in ((embedding, (2, 5)), (embedding, (23, 0)), (soft, (1, 0, 1, 2, 3))):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] += step
                values.append(float(decoder.loss(text)))
                weight[place] -= step
        assert float(weight.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("training", ["train", "adapt"])
def test_a_session_trains_through_a_context(training: str, make_session: Any) -> None:
    """A task trains it as any method: with the decoder from the start, or its own weights alone, put into a host."""
    tuned = {"training": "adapt", "tunes": "new"} if training == "adapt" else {}
    part = Part(replace(FUSION, **tuned), FUSION.resolve_options({"query_len": 8, "window": 8}))
    session = replace(make_session("passkey", conv=0, steps=20, tune_steps=20), combination=Combination((part,)))
    recipe = passkey.recipe(session)
    stage = session.stage(recipe, 3e-3, 0)
    learner, _ = session.trained(recipe, 3e-3, 0)
    before = stage.untrained()
    assert not torch.equal(*(each.get_parameter("context_module.soft") for each in (learner, before)))
    start = stage.before.made().learner if stage.before else before
    same = torch.equal(*(each.get_parameter("core.head.weight") for each in (learner, start)))
    assert same == (training == "adapt")
    if training == "train":
        rows = passkey.run(session)
        assert {row["T"] for row in rows if row["metric"] == "accuracy"} == set(session.settings["test_lengths"])


# What holds for all contexts.


@pytest.mark.parametrize("what", [NOTES, SURPRISING, FUSION], ids=lambda m: next(iter(m.fills.values())).__name__)
def test_the_examples_pass_verify(what: Method) -> None:
    report = check_method(what)
    skipped = {result.check: result.detail for result in report.results if result.status == "skipped"}
    assert ("finite_gradients" in skipped) == (what is not FUSION)
    assert "equals_vanilla" in skipped


class Noisy(SwiGLU):
    """Draws numbers and adds to the loss in training, and never else."""

    def forward(self, x: Tensor) -> Tensor:
        losses.add("noise", x.mean())
        assert self.training == torch.is_grad_enabled()
        return super().forward(functional.dropout(x, 0.5, self.training))


def test_reading_is_without_gradient_without_chance_and_leaves_the_mode() -> None:
    seen: list[Tensor] = []

    def reading(config: DecoderConfig) -> Context:
        def split(text: Tensor, read: Read) -> Prompt:
            seen.extend((read.logits(text), read.hidden(text), read.generate(text, 2), read.generate(text, 0)))
            return Prompt((), text)

        return Context(split, trains=True)

    both = method(reading, fills={"context": reading, "ffn": Noisy})
    decoder, text = build(both), tokens(12)
    decoder.core.blocks[0].mixer.eval()
    modes = [module.training for module in decoder.modules()]
    with losses.collect() as added:
        decoder(text)
    assert [module.training for module in decoder.modules()] == modes
    torch.testing.assert_close(added["noise"], added["noise"].detach().requires_grad_(), rtol=0, atol=0)
    logits, x, written, nothing = seen
    assert [part.requires_grad for part in seen] == [False] * 4
    decoder.eval()
    with torch.no_grad():
        torch.testing.assert_close(logits, decoder.core(text)[0], rtol=0, atol=0)
        torch.testing.assert_close(x, decoder.hidden(text)[0], rtol=0, atol=0)
        more = decoder.core(torch.cat([text, written[:, :1]], 1))[0][:, -1]
    assert torch.equal(written[:, 0], logits[:, -1].argmax(-1))
    assert torch.equal(written[:, 1], more.argmax(-1))
    assert nothing.shape == (2, 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda read: read.logits(torch.ones(2, 3)), r"read.logits was given torch.float32 \[2, 3\]; give integers"),
        (lambda read: read.hidden([1, 2]), r"read.hidden was given \[1, 2\]"),
        (lambda read: read.generate(tokens(0), 3), r"\[2, 0\]; give integers \[B, T\] with T at least 1"),
        (lambda read: read.generate(tokens(3), -1), "was asked for -1 steps; give a whole number, 0 or more"),
    ],
)
def test_what_cannot_be_read(call: Callable[[Read], Any], words: str) -> None:
    with pytest.raises(LongAtlasError, match=words):
        call(Read(build()))


def cut(prompt: Callable[[Tensor], Any], merge: Any = None, **more: Any) -> Method:
    return method(lambda config: Context(prompt, merge, **more))


BAD = {
    "no merge": (
        cut(lambda t: Prompt(t.split(4, 1), t[:, :0])),
        "a tail that is torch.int64 [2, 0]; of a batch of 2 it must be integers [2, Tq], with at least one token",
    ),
    "no merge, with a tail": (
        cut(lambda t: Prompt(t[:, :8].split(4, 1), t[:, 8:])),
        "made 2 windows, and the context has no merge, so that its tail would see none of them; give Context(split, m",
    ),
    "a row dropped": (cut(lambda t: Prompt((), t[:1])), "a tail that is torch.int64 [1, 12]; of a batch of 2"),
    "a row dropped of a window": (cut(lambda t: Prompt([t[:1]], t), len), "window 0 that is torch.int64 [1, 12]; of"),
    "embeddings": (cut(lambda t: Prompt((), t[..., None] * 0.5)), "a tail that is torch.float32 [2, 12, 1]"),
    "an empty window": (cut(lambda t: Prompt([t, t[:, :0]], t), len), "window 1 that is torch.int64 [2, 0]"),
    "no prompt": (cut(lambda t: t), "it must return longatlas.Prompt(windows, tail)"),
    "more scored than there is": (
        cut(lambda t: Prompt((), torch.cat([t, t], 1)), scores="tail"),
        "made a tail of 24 tokens of 12, with scored=None, and scores its tail; the scored tokens are the input's own,",
    ),
    "a scored that is no number of tokens": (
        cut(lambda t: Prompt((), t, 2.0), scores="tail"),  # type: ignore[arg-type]
        "made a tail of 12 tokens of 12, with scored=2.0, and scores its tail",
    ),
    "no state": (cut(lambda t: Prompt([t], t), lambda states: None), "merge made None of 1 states; it must return"),
    "another form of split": (cut(lambda t, host: Prompt((), t)), "it must be split(tokens) or split(tokens, read)"),
    "another form of merge": (
        cut(lambda t: Prompt((), t), lambda states, text: None),
        "it must be merge(states) or merge(states, prompt)",
    ),
    "another score": (cut(lambda t: Prompt((), t), scores="all"), "scores='all'; it must be one of last, tail"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_context_is_told_what_is_wrong(fault: str) -> None:
    what, words = BAD[fault]
    with pytest.raises(LongAtlasError) as error:
        build(what)(tokens(12))
    assert words in str(error.value)


WRONG = {
    "drops the last token": (
        cut(lambda t: Prompt((), t[:, :-1])),
        "the tail does not end with the input's last 1 tokens, which it answers",
    ),
    "has read what it answers": (
        cut(lambda t: Prompt([t], t[:, -8:]), lambda states: states[0], trains=True),
        "changing token 196 of a prompt of 200: the answers before it differs",
    ),
    "drops a token sometimes": (
        cut(lambda t: Prompt((), t[:, -8 - int(t[0, -1]) % 2 :]), scores="tail"),
        "changing token 199 of a prompt of 200 changes the number of its answers",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_verify_sees_through_a_context(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    what, words = WRONG[fault]
    monkeypatch.setattr(runner, "CHECKS", (checks.causality,))
    (failure,) = verify_method(what).failures
    assert words in failure.detail


def test_a_trained_contexts_gradients_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """An impl whose merge detaches differs from the reference, and leaves the context's own weights untrained."""

    def impls(config: DecoderConfig, *, impl: str) -> Context:
        module = Fusion(config, 16, 48)

        def detached(states: Sequence[DecoderState], prompt: Prompt) -> DecoderState:
            merged: DecoderState = detached_state(module.merge(states, prompt))
            return merged

        context = Context(module.split, module.merge, trains=True)
        return replace(context, merge=detached) if impl != "reference" else context

    two = method(impls, impls=("torch", "reference"))
    monkeypatch.setattr(runner, "CHECKS", (checks.impls_match_reference, checks.finite_gradients))
    failures = {failure.check: failure.detail for failure in verify_method(two).failures}
    assert "the gradient of" in failures["impls_match_reference"]
    assert failures["finite_gradients"] == "parameter 'context_module.soft' gets no gradient"


def test_places_before_the_tail_cannot_be_asked_for() -> None:
    decoder, text = build(FUSION, query_len=8, window=8), tokens(40)
    chosen = torch.zeros(2, 40, dtype=torch.bool)
    chosen[:, 33] = True
    torch.testing.assert_close(decoder.logits_at(text, chosen), decoder(text)[0][:, 1], rtol=0, atol=0)
    chosen[1, 31] = True
    for ask in (lambda: decoder.logits_at(text, chosen), lambda: decoder.loss(text, chosen.long() * 103 - 100)):
        with pytest.raises(UnsupportedError, match="answers the last 8 of 40 tokens, and token 31 is asked for"):
            ask()


def test_what_does_not_train_and_what_a_context_is_not_told() -> None:
    decoder, text = build(SURPRISING), tokens(20)
    with pytest.raises(UnsupportedError, match=r"is not trained itself, which would take a Context\(trains=True\)"):
        decoder.loss(text)
    with pytest.raises(UnsupportedError, match="cuts a prompt itself and is not told of visible"):
        decoder(text, visible=torch.ones(2, 20, dtype=torch.bool))
    with pytest.raises(UnsupportedError, match="'vanilla' fills no context"):
        build().prompt(text)

    def drawing(config: DecoderConfig) -> Position:
        return Position(draw=lambda length, generator: torch.arange(length))

    drawn = method(fusion, fills={"context": fusion, "position": drawing}, options=FUSION.options)
    with pytest.raises(UnsupportedError, match="is not told of places"):
        build(drawn).loss(text)


def test_the_level_decoder_trains_what_trains() -> None:
    drawn = levels.Drawn(2, "cpu", torch.float64, 0)
    subject = levels.WholeDecoder(build(FUSION), drawn)
    loss, _ = levels.phase_runner(subject, "train", 100)()
    torch.testing.assert_close(loss, subject.module.loss(drawn.tokens(31, 101)).detach(), rtol=0, atol=1e-12)
    with pytest.raises(UnsupportedError, match="not trained itself"):
        levels.phase_runner(levels.WholeDecoder(build(NOTES), drawn), "train", 100)


@torch.no_grad()
def test_tasks_ask_a_scored_tail_once() -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        def __init__(self, decoder: Decoder) -> None:
            super().__init__()
            self.decoder, self.context = decoder, decoder.context

        def forward(self, text: Tensor, state: Any = None) -> Any:
            calls.append(text.shape[1])
            return self.decoder(text, state)

    learner = Counting(build(FUSION, query_len=8, window=8))
    text, labels = tokens(40), torch.full((2, 40), losses.NO_LABEL)
    labels[:, [20, 35, 39]] = 3
    given = scores.answers(learner, text, labels)
    assert calls == [40, 21], "the last 8 tokens by one call, the other by another"
    expected = [learner.decoder(text)[0][:, [3, 7]], learner.decoder(text[:, :21])[0][:, -1:]]
    assert torch.equal(given.view(2, 3), torch.cat([expected[1], expected[0]], 1).argmax(-1))


@torch.no_grad()
def test_bits_at_the_end_are_those_of_the_scored_tail() -> None:
    """One call scores what two read where the tail is too short; a context that changes nothing gives vanilla's."""
    config = DecoderConfig(d_model=16, n_layers=1, n_heads=2, train_length=16)
    text = torch.randint(256, (3, 65), generator=torch.Generator().manual_seed(0))
    plain = language_model.bits_by_position(build(config=config), text, 16, 4)[3:]
    calls: list[int] = []

    def scoring(least: int) -> Method:
        def split(t: Tensor) -> Prompt:
            calls.append(t.shape[1])
            return Prompt((), t, min(least, t.shape[1]))

        return cut(split, scores="tail")

    for least, asked in ((64, [16, 32, 64]), (8, [16, 32, 16, 64, 32])):
        calls.clear()
        rows = language_model.bits_by_position(build(scoring(least), config), text, 16, 4)
        assert calls == asked
        for one, other in zip(plain, rows, strict=True):
            assert (one["metric"], one["T"]) == (other["metric"], other["T"])
            assert one["value"] == pytest.approx(other["value"], rel=1e-9)


def test_an_object_with_the_parts_of_a_context_is_one() -> None:
    parts = SimpleNamespace(split=lambda t: Prompt((), t), scores="tail", trains=True)
    decoder = build(method(lambda config: parts))
    assert decoder.context == Context(parts.split, None, "tail", trains=True)
    assert as_combination("passage_selection").fills("context")
