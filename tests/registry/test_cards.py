"""Cards refuse what breaks their rules, and say what is allowed."""

import pytest

from longatlas import Cost, LongAtlasError, Method, Option, Peer, Task, Teacher, UnknownNameError


def card(**changes):
    facts = {"name": "some_name", "title": "T", "family": "misc/objectives", "summary": "One.", "fills": {}}
    return Method(**{**facts, **changes})


WINDOW = Option("window", 8, "keys", unit="tokens", min=1, max=64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "SomeName"}, "'SomeName' is not snake_case"),
        ({"name": "1st"}, "'1st' is not snake_case"),
        ({"fills": {"memroy": print}}, "unknown slot in method 'some_name': 'memroy'; did you mean 'memory'"),
        ({"fills": {"memory": 3}}, "which cannot be called"),
        ({"summary": " "}, "empty summary"),
        ({"training": "maybe"}, "has training='maybe'; it must be 'retrofit', 'adapt' or 'train'"),
        ({"tunes": "some"}, "has tunes='some'; it must be 'all' or 'new'"),
        ({"tunes": "new"}, "has tunes='new' and training='train'; only a method with training='adapt' is tuned"),
        (
            {"calibrate": 3, "training": "retrofit"},
            "has calibrate=3, which cannot be called; give a function, or leave",
        ),
        ({"calibrate": print}, "has calibrate and training='train'; it is fitted to a trained host"),
        ({"sampler": "text"}, "has sampler='text', which cannot be called"),
        (
            {"sampler": print, "training": "retrofit"},
            "has a sampler and training='retrofit', so nothing would be drawn",
        ),
        ({"teacher": "vanilla"}, "has teacher='vanilla'; it must be a longatlas.Teacher"),
        ({"teacher": Teacher()}, "has a teacher and fills no objective, so nothing would learn from it"),
        ({"impls": ()}, "names no impl"),
        ({"options": (WINDOW, WINDOW)}, "has the option 'window' twice"),
        ({"options": WINDOW}, "it must be a tuple of Option, and a tuple of one needs a comma"),
        ({"requires": "triton"}, "has requires='triton'; it must be a tuple of str"),
        ({"flops": 3}, "has flops=3, which cannot be called; give a function (call, **options)"),
        ({"state_size": "T"}, "has state_size='T', which cannot be called"),
        ({"peers": ("fla",)}, "has peers=('fla',); it must map names to longatlas.Peer(build, install)"),
        ({"peers": {"fla": print}}, "it must map names to longatlas.Peer(build, install)"),
        ({"peers": {"FLA": Peer(print)}, "fills": {"mixer": print}}, "peer name 'FLA' is not snake_case"),
        ({"peers": {"fla": Peer(print)}, "fills": {"ffn": print}}, "has peers, and fills neither mixer nor attention"),
        ({"cost": "T"}, "has cost='T'; it must be a longatlas.Cost"),
        ({"name": 5}, "method name 5 is not snake_case"),
        ({"title": 5}, "method 'some_name' has title=5; it must be text"),
        ({"family": None}, "has family=None; it must be text"),
        ({"summary": None}, "has summary=None; it must be text"),
        ({"paper": None}, 'has paper=None; it must be text, which may be empty: ""'),
        ({"deviations": 7}, "has deviations=7; it must be text"),
        ({"source": ("a",)}, "has source=('a',); it must be text"),
        ({"training": ["train"]}, "has training=['train']; it must be text"),
    ],
)
def test_a_broken_card_is_refused(changes, words):
    with pytest.raises(LongAtlasError) as error:
        card(**changes)
    assert words in str(error.value)


def test_a_peer_needs_a_builder_and_the_name_of_a_package():
    with pytest.raises(LongAtlasError, match="a peer has build='fla', which cannot be called; give a builder"):
        Peer("fla")
    with pytest.raises(LongAtlasError, match="a peer has install=None; it must be the name of a package, or empty"):
        Peer(print, install=None)


def test_a_task_needs_a_snake_case_name():
    with pytest.raises(LongAtlasError, match="task name 'A B' is not snake_case"):
        Task(name="A B", title="", summary="", run=print, presets={})


@pytest.mark.parametrize("value", [0, 65, "0", "65", "many", "1.5", 1.5, True, None])
def test_an_option_out_of_bounds_names_itself_and_its_rule(value):
    with pytest.raises(LongAtlasError) as error:
        card(options=(WINDOW,)).resolve_options({"window": value})
    text = str(error.value)
    assert "method 'some_name': option 'window' is" in text
    assert str(value) in text
    assert "expected a whole number of at least 1 and at most 64" in text


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_float_option_is_bounded_too(value):
    with pytest.raises(LongAtlasError, match="option 'strength'"):
        card(options=(Option("strength", 0.5, "s", min=0, max=10),)).resolve_options({"strength": value})


def test_options_are_parsed_from_text_and_filled_up_with_defaults():
    options = (WINDOW, Option("on", False, "o"), Option("rule", "a", "r", choices=("a", "b")), Option("x", 1.0, "x"))
    found = card(options=options).resolve_options({"window": "12", "on": "true", "x": 2})
    assert found == {"window": 12, "on": True, "rule": "a", "x": 2.0}
    assert type(found["x"]) is float
    with pytest.raises(LongAtlasError, match="is the unknown value 'c'; known: a, b"):
        card(options=options).resolve_options({"rule": "c"})


def test_an_unknown_option_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="unknown option of method 'some_name': 'windw'; did you mean 'window'"):
        card(options=(WINDOW,)).resolve_options({"windw": 3})


def test_a_default_out_of_its_own_bounds_is_refused():
    with pytest.raises(LongAtlasError, match="option 'window' is 0; expected a whole number of at least 1"):
        Option("window", 0, "keys", min=1)


@pytest.mark.parametrize(
    ("time", "state", "exponent", "growth"),
    [
        ("T^2", "T", 2, "linear"),
        ("T*W", "W", 1, "constant"),
        ("T*log(T)", "log(T)", 1, "log"),
        ("T^1.5 + T*W", "M", 1.5, "constant"),
        ("W^2", "1", 0, "constant"),
        ("T*N", "T*N", 1, "linear"),
    ],
)
def test_claimed_growth_is_read_from_the_symbols(time, state, exponent, growth):
    cost = Cost(time=time, state=state)
    assert (cost.time_exponent, cost.state_growth) == (exponent, growth)


def test_texts_of_costs_options_and_tasks_are_text():
    for make, words in (
        (lambda: Cost(time=2, state="T"), "a cost has time=2; it must be text"),
        (lambda: Cost(time="T", state=None), "a cost has state=None; it must be text"),
        (lambda: Option("window", 8, 3), "option 'window' has help=3; it must be text"),
        (lambda: Option("window", 8, "keys", unit=None), "option 'window' has unit=None; it must be text"),
        (lambda: Task("recall", 5, "s", print, {}), "task 'recall' has title=5; it must be text"),
        (lambda: Task("recall", "t", "s", print, {}, example=1), "task 'recall' has example=1; it must be text"),
    ):
        with pytest.raises(LongAtlasError) as error:
            make()
        assert words in str(error.value)
