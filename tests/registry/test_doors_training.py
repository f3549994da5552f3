"""What a method can do with training, each shown by a small method that needs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from longatlas import (
    Decoder,
    DecoderConfig,
    LongAtlasError,
    Method,
    Option,
    Position,
    Teacher,
    UnsupportedError,
    losses,
)
from longatlas.combination import Combination, as_combination
from longatlas.decoder.defaults import SwiGLU, host_frequencies, next_token_loss
from longatlas.identity import Code
from longatlas.ops import rotary_embedding
from longatlas.tasks import estimate, hosts, language_model, mqar
from longatlas.tasks.session import Session
from longatlas.tasks.stages import decoder_in
from longatlas.tasks.training import Recipe, Trainer, train
from longatlas.testing import check_method

CONFIG = DecoderConfig(vocab_size=8, d_model=16, n_layers=1, n_heads=2)


def method(name: str, fills: Mapping[str, Any], **facts: Any) -> Method:
    return Method(name=name, title=name, family="misc/objectives", summary="One.", fills=fills, **facts)


def joined(*methods: Method) -> Combination:
    return Combination(tuple(part for one in methods for part in as_combination(one).parts))


def copies(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Every token is its own label."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        tokens = torch.randint(8, (16, 8), generator=generator)
        yield tokens, tokens


COPY = Recipe(CONFIG, copies, "copies")


@pytest.fixture
def session_of(make_session: Any) -> Any:
    """session_of(method, task="mqar", **settings): a session of few steps on a method that no plugin brings."""

    def make(one: Method | Combination, task: str = "mqar", **settings: Any) -> Session:
        session = make_session(task, steps=10, **settings)
        return replace(session, combination=as_combination(one))

    return make


def values(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows}


def right(learner: Any, seed: int) -> list[dict[str, Any]]:
    return [{"metric": "accuracy", "T": 8, "value": 1.0}]


# An objective with labels -------------------------------------------------------------------------------------------


def half_of_the_labels(config: DecoderConfig) -> Any:
    """Every second label is left out; what is asked for is told by `labels` alone."""

    def loss(decoder: Any, tokens: Tensor, labels: Tensor | None = None) -> Tensor:
        assert labels is not None
        asked.append(int((labels != losses.NO_LABEL).sum()))
        kept = labels.clone()
        kept[::2] = losses.NO_LABEL
        return next_token_loss(decoder, tokens, kept)

    asked: list[int] = ASKED
    return loss


ASKED: list[int] = []


def test_labelled_tasks_train_by_the_methods_objective(make_session: Any) -> None:
    ASKED.clear()
    session = replace(
        make_session("mqar", steps=4), combination=as_combination(method("half", {"objective": half_of_the_labels}))
    )
    rows = values(mqar.run(session))
    assert len(ASKED) == session.settings["steps"] == rows["steps"]
    assert min(ASKED) > 0
    ASKED.clear()
    mad = replace(make_session("mad_compression", steps=2), combination=session.combination)
    from longatlas.tasks import mad as skills

    skills.run(mad, "compression")
    assert len(ASKED) == 2, "a module around the decoder trains by the objective, too"


# Losses from inside, and what follows a step ------------------------------------------------------------------------


class Counting(SwiGLU):
    """Adds the mean square of what it gives as a loss, and counts the steps of the optimiser."""

    steps: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__(config)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        losses.add("size", y.square().mean())
        return y

    def after_step(self) -> None:
        self.steps += 1
        self.down.weight.clamp_(-0.01, 0.01)


COUNTING = method("counting", {"ffn": Counting})


def test_a_loss_made_inside_is_a_row_and_is_trained(session_of: Any) -> None:
    rows = session_of(COUNTING).sweep(COPY, right)
    (row,) = [row for row in rows if row["metric"] == "loss_size"]
    assert row["unit"] == "nats"
    assert row["value"] > 0
    assert session_of(method("plain", {"ffn": SwiGLU})).trained(COPY, 1e-2, 0).record.losses == {}
    decoder = Decoder(CONFIG, COUNTING)
    tokens, _ = next(copies(0))
    inside = decoder.core.blocks[0].ffn
    with losses.collect() as added:
        total = decoder.loss(tokens)
        plain = next_token_loss(decoder, tokens)
    assert total.item() == pytest.approx(plain.item() + added["size"].item() / 2)
    assert inside.steps == 0


def test_the_mean_over_the_last_steps_is_told() -> None:
    added = iter(torch.arange(1.0, 31.0))

    class Ticking(SwiGLU):
        def forward(self, x: Tensor) -> Tensor:
            losses.add("tick", next(added) + 0 * x.sum())
            return super().forward(x)

    trainer = Trainer(Decoder(CONFIG, method("ticking", {"ffn": Ticking})), copies(0), 1e-3, 30)
    for _ in range(30):
        trainer.step()
    assert trainer.losses == {"tick": pytest.approx(20.5)}  # of 11 ... 30


def test_after_step_is_called_after_each_step_of_the_optimiser(session_of: Any) -> None:
    ffn = decoder_in(session_of(COUNTING).trained(COPY, 1e-1, 0).learner).core.blocks[0].ffn
    assert ffn.steps == 10
    assert ffn.down.weight.abs().max() <= 0.01


# adapt ---------------------------------------------------------------------------------------------------------------


class Adapter(nn.Module):
    """x + B A x on what the head reads; B starts at zero."""

    def __init__(self, stack: Any) -> None:
        super().__init__()
        self.stack = stack
        width = stack.embedding.embedding_dim
        self.a, self.b = nn.Linear(width, 4, bias=False), nn.Linear(4, width, bias=False)
        nn.init.zeros_(self.b.weight)

    def hidden(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x, state = self.stack.hidden(tokens, state)
        return x + self.b(self.a(x)), state

    def head(self, x: Tensor) -> Tensor:
        return self.stack.head(x)  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        x, state = self.hidden(tokens, state)
        return self.head(x), state

    def _load_from_state_dict(self, weights: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in [name for name in weights if name.startswith(prefix) and "stack." not in name]:
            rest_of_name = name.removeprefix(prefix)
            if not rest_of_name.startswith(("a.", "b.")):
                weights[f"{prefix}stack.{rest_of_name}"] = weights.pop(name)
        super()._load_from_state_dict(weights, prefix, *rest)


def adapter(config: DecoderConfig) -> Any:
    return Adapter


ADAPTER = method("adapter", {"model": adapter}, training="adapt", tunes="new")


def host_weights(session: Session) -> dict[str, Tensor]:
    host = replace(session, combination=as_combination("vanilla"))
    return host.trained(COPY, 1e-2, 0).learner.state_dict()  # type: ignore[no-any-return]


def test_an_adapter_trains_its_own_weights_and_leaves_the_hosts_as_they_are(session_of: Any) -> None:
    session = session_of(ADAPTER)
    learner, record = session.trained(COPY, 1e-2, 0)
    mine, host = learner.state_dict(), host_weights(session)
    assert mine["core.b.weight"].abs().max() > 0
    assert all(torch.equal(mine[name.replace("core.", "core.stack.")], host[name]) for name in host)
    assert (record.steps, record.tune_steps) == (10, 2)
    names = sorted(path.name.split("-")[0] for path in Path(session.cache).iterdir())
    assert names == ["adapter", "vanilla"], "the host is shared with others"
    again = session.trained(COPY, 1e-2, 0)
    assert again.record == record
    assert all(torch.equal(mine[name], weight) for name, weight in again.learner.state_dict().items())
    (tuned,) = Path(session.cache).glob("adapter-*")
    kept = hosts.read(tuned)
    assert kept is not None
    assert kept[1]["lacked"] == ["core.a.weight", "core.b.weight"]


def test_a_tuning_of_all_weights_moves_the_hosts(session_of: Any) -> None:
    session = session_of(replace(ADAPTER, tunes="all"), tune_steps=3, tune_lr=5e-3)
    learner, record = session.trained(COPY, 1e-2, 0)
    assert record.tune_steps == 3
    mine, host = learner.state_dict(), host_weights(session)
    assert not any(torch.equal(mine[name.replace("core.", "core.stack.")], host[name]) for name in host)
    rows = values(session.sweep(COPY, right))
    assert rows["tune_steps"] == 3
    assert rows["tune_seconds"] > 0


def test_a_tuning_takes_a_step(session_of: Any) -> None:
    with pytest.raises(LongAtlasError, match="a preset of task 'mqar' has tune_steps=0; a tuning takes at least 1, or"):
        session_of(ADAPTER, tune_steps=0).trained(COPY, 1e-2, 0)


def test_a_combination_is_trained_then_tuned_then_put_together() -> None:
    kinds = {
        "train": method("a", {"ffn": Counting}),
        "adapt": ADAPTER,
        "retrofit": method(
            "c", {"position": lambda config: Position(frequencies=host_frequencies)}, training="retrofit"
        ),
    }
    both = joined(*kinds.values())
    assert [stage.name for stage in both.stages] == ["a", "a+adapter", "a+adapter+c"]
    assert both.training == "train"
    late = joined(kinds["retrofit"], kinds["adapt"])
    assert [stage.name for stage in late.stages] == ["vanilla", "adapter", "c+adapter"]
    assert (late.training, late.stages[-1] is late, late.host.name) == ("adapt", True, "vanilla")


def test_a_method_in_a_tuned_model_is_not_tuned_itself(session_of: Any) -> None:
    late = joined(method("c", {"position": quarter}, training="retrofit"), ADAPTER)
    session = session_of(late)
    session.trained(COPY, 1e-2, 0)
    assert len(list(Path(session.cache).iterdir())) == 2
    tuned = replace(session, combination=as_combination(ADAPTER)).trained(COPY, 1e-2, 0)
    assert len(list(Path(session.cache).iterdir())) == 2, "the tuned model is the one that the adapter alone has"
    assert tuned.record.tune_steps == 2


def quarter(config: DecoderConfig) -> Position:
    return Position(frequencies=lambda theta, train_length: (theta / 4, 1.0))


def test_weights_that_do_not_fit_are_told_by_name(session_of: Any) -> None:
    cases = [
        (replace(ADAPTER, training="retrofit", tunes="all"), "the host lacks its weights core.a.weight, core.b.weight"),
        (method("none", {"ffn": SwiGLU}, training="adapt", tunes="new"), "has none that its host lacks"),
        (
            method("dropped", {"ffn": lambda config: nn.Identity()}, training="retrofit"),
            "has weights without a place: core.bl",
        ),
    ]
    for one, words in cases:
        with pytest.raises(LongAtlasError, match=words):
            session_of(one).trained(COPY, 1e-2, 0)


# calibrate ------------------------------------------------------------------------------------------------------------


def fit(decoder: Decoder, batches: Any, factor: float) -> dict[str, float]:
    """A bad guest: it asks for gradients and changes the weights."""
    CALLS.append((decoder.combination.name, factor))
    decoder.loss(*next(batches)).backward()  # type: ignore[no-untyped-call]
    for parameter in decoder.parameters():
        parameter.data.zero_()
    return {"factor": 4.0}


def scaled(config: DecoderConfig, factor: float) -> Position:
    return Position(frequencies=lambda theta, train_length: (theta / factor, 1.0))


CALLS: list[Any] = []
OPTIONS = (Option("factor", 2.0, "of the angles", min=1.0), Option("other", 1, "unused"))
FITTED = method("fitted", {"position": scaled}, training="retrofit", options=OPTIONS, calibrate=fit)


def test_a_method_is_fitted_to_its_host_once(session_of: Any) -> None:
    CALLS.clear()
    session = session_of(FITTED)
    before = host_weights(session)
    learner, record = session.trained(COPY, 1e-2, 0)
    assert decoder_in(learner).combination.spec == "fitted:factor=4.0"
    assert all(torch.equal(before[name], weight) for name, weight in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())
    session.trained(COPY, 1e-2, 0)
    assert CALLS == [("vanilla", 2.0)]
    assert list(record.fitted) == ["fitted:factor=4.0"]
    rows = session.sweep(COPY, right)
    (row,) = [row for row in rows if row["metric"] == "calibrate_seconds"]
    assert (row["reason"], row["unit"], row["value"] > 0) == ("fitted:factor=4.0", "s", True)


def test_an_option_that_the_spec_gives_is_not_fitted(session_of: Any) -> None:
    (part,) = as_combination(FITTED).parts
    given = Combination((replace(part, options={**part.options, "factor": 3.0}),))
    assert decoder_in(session_of(given).trained(COPY, 1e-2, 0).learner).combination.options["factor"] == 3.0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"factors": 4.0},
            "calibrate of method 'fitted' returned unknown option of method 'fitted': 'factors'; did you",
        ),
        ({"factor": 0.5}, "calibrate of method 'fitted' returned method 'fitted': option 'factor' is 0.5; expected"),
        (None, "calibrate of method 'fitted' returned None; it must return a mapping of the method's options"),
    ],
)
def test_what_calibrate_returns_is_checked(given: Any, words: str, session_of: Any) -> None:
    with pytest.raises(LongAtlasError) as error:
        session_of(replace(FITTED, calibrate=lambda decoder, batches: given)).trained(COPY, 1e-2, 0)
    assert words in str(error.value)


# teacher --------------------------------------------------------------------------------------------------------------


class Distil(nn.Module):
    """Cross-entropy with the teacher's answers; keeps what it was taught by."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, decoder: Any, tokens: Tensor, labels: Tensor | None = None, *, teacher: Any) -> Tensor:
        TEACHERS.append(teacher)
        chosen = torch.ones_like(tokens, dtype=torch.bool) if labels is None else labels != losses.NO_LABEL
        wanted = teacher.logits_at(tokens, chosen).softmax(-1)
        assert not wanted.requires_grad
        return self.weight * functional.cross_entropy(decoder.logits_at(tokens, chosen), wanted)


TEACHERS: list[Any] = []
STUDENT = method("student", {"objective": Distil}, teacher=Teacher(depth=3, width=2))


def test_a_student_learns_from_a_frozen_teacher(session_of: Any) -> None:
    TEACHERS.clear()
    session = session_of(STUDENT)
    learner, _ = session.trained(COPY, 1e-2, 0)
    teacher = TEACHERS[-1]
    assert (teacher.config.n_layers, teacher.config.d_model, teacher.config.n_heads) == (3, 32, 2)
    assert not teacher.training
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    assert learner.state_dict().keys() == {*Decoder(CONFIG).state_dict(), "_objective.weight"}
    assert sorted(path.name.split("-")[0] for path in Path(session.cache).iterdir()) == ["student", "vanilla"]
    as_it_is = replace(session, combination=as_combination("vanilla"))
    larger = as_it_is.trained(replace(COPY, config=teacher.config), 1e-2, 0).learner
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), larger.parameters(), strict=True))


def test_the_kit_gives_an_untrained_teacher() -> None:
    check_method(STUDENT)


def test_a_student_without_its_teacher_is_told_so() -> None:
    with pytest.raises(UnsupportedError, match=r"'student' learns from a teacher; call decoder.learn_from\(teacher\)"):
        Decoder(CONFIG, STUDENT).loss(next(copies(0))[0])


def test_a_teacher_that_cannot_be_is_refused(session_of: Any) -> None:
    with pytest.raises(LongAtlasError, match="a teacher's depth is 0; expected a whole number of at least 1; depth"):
        Teacher(depth=0)
    with pytest.raises(LongAtlasError, match="the objective of 'student' takes a teacher, and its card names none"):
        Decoder(CONFIG, replace(STUDENT, teacher=None))
    with pytest.raises(LongAtlasError, match="'deaf' has a teacher that its objective does not take; write objective"):
        Decoder(CONFIG, method("deaf", {"objective": lambda config: next_token_loss}, teacher=Teacher()))
    with pytest.raises(
        LongAtlasError, match="the teacher of 'student' has spec='vanila': unknown method 'vanila'; did"
    ):
        session_of(replace(STUDENT, teacher=Teacher("vanila"))).trained(COPY, 1e-2, 0)


# sampler --------------------------------------------------------------------------------------------------------------


def growing(text: Tensor, length: int, batch: int, seed: int, steps: int, start: int) -> Iterator[Tensor]:
    """Rows grow from `start` tokens to the training length; each step asks for no more tokens than the task's own."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        window = start + (length - start) * step // max(1, steps - 1)
        starts = torch.randint(len(text) - window - 1, (batch * length // window,), generator=generator)
        SHAPES.append((len(starts), window))
        yield torch.stack([text[s : s + window + 1] for s in starts.tolist()])


SHAPES: list[tuple[int, int]] = []
CURRICULUM = method(
    "curriculum",
    {"objective": lambda config: next_token_loss},
    options=(Option("start", 8, "tokens"),),
    sampler=growing,
)


def test_a_curriculum_draws_the_language_models_batches(session_of: Any) -> None:
    SHAPES.clear()
    session = session_of(CURRICULUM, "language_model")
    rows = values(language_model.run(session))
    length, batch = session.settings["length"], session.settings["batch"]
    assert rows["steps"] == 10
    trained = SHAPES[2:] if len(SHAPES) > 10 else SHAPES  # two more are drawn to look at held-out accuracy
    assert {window for _, window in trained} >= {8, length}
    assert all(rows * window <= batch * length for rows, window in SHAPES)
    assert rows["bits_per_byte"] > 0


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (torch.zeros(8, 40).long(), "gave a tensor [8, 40], which asks for 312 next tokens; 8 rows of 32 are what all"),
        (torch.zeros(8), "gave torch.float32; it must yield tensors of whole numbers [rows, tokens]"),
        (torch.zeros(8).long(), "gave a tensor [8]; it must be [rows, tokens] with at least 2 tokens in a row"),
        (torch.full((2, 8), 256), "gave tokens from 256 to 256; they must lie between 0 and 255"),
        (None, "ended after 0 batches; it must yield one for each step"),
    ],
)
def test_what_a_sampler_yields_is_checked(batch: Any, words: str, session_of: Any) -> None:
    card = replace(CURRICULUM, sampler=lambda *given: iter(() if batch is None else (batch,)))
    with pytest.raises(LongAtlasError) as error:
        language_model.run(session_of(card, "language_model"))
    assert f"the sampler of method 'curriculum' {words}" in str(error.value)


def test_two_samplers_do_not_combine() -> None:
    other = method("other", {"ffn": SwiGLU}, sampler=growing)
    with pytest.raises(LongAtlasError, match="'curriculum' and 'other' both have a sampler; leave one of them out"):
        joined(CURRICULUM, other)


# draw -----------------------------------------------------------------------------------------------------------------


def randomised(config: DecoderConfig) -> Position:
    """Places in training are a sorted sample (arXiv:2305.16843)."""

    def draw(length: int, generator: torch.Generator | None) -> Tensor:
        places = torch.randperm(64, generator=generator)[:length].sort().values
        DRAWN.append(places.tolist())
        return places

    return Position(rotate=rotary_embedding(config.head_size), draw=draw)


DRAWN: list[list[int]] = []
RANDOMISED = method("randomised", {"position": randomised})


def test_places_are_drawn_in_training_alone_and_by_its_seed(session_of: Any, tmp_path: Path) -> None:
    trained = []
    for folder in "ab":
        DRAWN.clear()
        session = replace(session_of(RANDOMISED), cache=str(tmp_path / folder))
        trained.append((session.trained(COPY, 1e-2, 0).learner, list(DRAWN)))
    (first, places), (second, again) = trained
    assert len(places) == 10
    assert places == again
    assert len({tuple(drawn) for drawn in places}) == 10
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    DRAWN.clear()
    tokens, _ = next(copies(0))
    first(tokens)
    first.logits_at(tokens, tokens >= 0)
    assert DRAWN == []


def test_code_that_trains_a_method_counts_where_models_are_trained() -> None:
    plain = method("plain", {"ffn": SwiGLU}, training="adapt")
    for more in ({"calibrate": fit}, {"sampler": growing}):
        other, same = as_combination(replace(plain, **more)), as_combination(plain)
        assert Code().of(other, "quality") != Code().of(same, "quality")
        assert Code().of(other, "speed") == Code().of(same, "speed")
    mine = as_combination(replace(STUDENT, teacher=Teacher("yarn")))
    assert Code().of(mine, "quality") != Code().of(as_combination(STUDENT), "quality")


# What is told before and after ----------------------------------------------------------------------------------------


def test_an_estimate_foresees_tunings_and_teachers(session_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int]] = []

    def half_a_second(stage: Any) -> float:
        seen.append((stage.combination.name, stage.recipe.config.n_layers, stage.steps))
        return 0.5

    monkeypatch.setattr(estimate, "_step_seconds", half_a_second)

    def foreseen(session: Session) -> list[float]:
        estimator = estimate._Estimator(**{name: getattr(session, name) for name in Session.__dataclass_fields__})
        estimator.sweep(COPY, right)
        return estimator.foreseen

    session = session_of(joined(ADAPTER, STUDENT), lrs=(1e-2,))
    assert sum(foreseen(session)) == 0.5 * (10 + 10 + 2)
    assert seen == [("vanilla", 3, 10), ("student", 1, 10), ("adapter+student", 1, 2)]
    session.trained(COPY, 1e-2, 0)
    assert foreseen(session) == []


def test_a_step_of_a_tuning_can_be_timed(session_of: Any) -> None:
    stage = session_of(joined(ADAPTER, STUDENT)).stage(COPY, 1e-2, 0)
    assert estimate._step_seconds(stage) > 0


def test_a_learner_of_0_1_0_is_told_the_new_form() -> None:
    class Old(nn.Module):
        def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
            raise NotImplementedError

    with pytest.raises(
        LongAtlasError, match=r"a learner is a Old without loss\(tokens, labels=None, \*, generator=None\)"
    ):
        train(Old(), copies, 1e-2, 0, {"steps": 1})
