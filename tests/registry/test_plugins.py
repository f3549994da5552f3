"""A broken plugin is a row with its error and costs nobody else anything; a good one installs and works."""

import inspect
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pace
import pytest

from longatlas import Method, hookimpl, hookspecs
from longatlas.catalog import build_catalog
from longatlas.plugins import HOOKS, Source, load_plugins
from longatlas.taxonomy import load_taxonomy

EXAMPLE = Path(__file__).parents[1] / "example_plugin"
LEAF = "misc/objectives"


def card(name, family=LEAF):
    return Method(name=name, title=name, family=family, summary="One.", fills={"ffn": print})


def source(name, *cards, hook="register_methods", load=None, error=None):
    """A plugin whose hook registers `cards`, or raises."""

    def register_methods(register):
        for one in cards:
            register(one)
        if error:
            raise error

    plugin = SimpleNamespace(**{hook: hookimpl(register_methods)})
    return Source(name, load or (lambda: plugin))


def raising(error):
    def load():
        raise error

    return load


class Panic(BaseException):
    """As an extension in Rust raises it: no Exception."""


BROKEN = {
    "import": (source("p", load=raising(ImportError("no module named 'flux'"))), "ImportError: no module named 'flux'"),
    "exit": (source("p", load=raising(SystemExit(3))), "SystemExit: 3"),
    "panic": (source("p", load=raising(Panic("it broke in Rust"))), "Panic: it broke in Rust"),
    "syntax": (
        source("p", load=lambda: compile("def f(:", "f.py", "exec")),
        "SyntaxError: invalid syntax (f.py, line 1)",
    ),
    "hook": (source("p", card("m"), hook="register_method"), "unknown hook 'register_method'; did you mean 'register_"),
    "none": (Source("p", lambda: SimpleNamespace()), "implements none of the hooks register_methods"),
    "raises": (source("p", card("kept"), error=KeyError("oops")), "KeyError: 'oops'"),
    "exits": (source("p", card("kept"), error=SystemExit("bye")), "SystemExit: bye"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_listed_and_the_others_work(case):
    broken, words = BROKEN[case]
    catalog = build_catalog([source("first", card("good")), broken, source("last", card("fine"))])
    assert set(catalog.methods) - {"kept"} == {"good", "fine"}
    errors = {plugin.name: plugin.error for plugin in catalog.plugins}
    assert errors["first"] == errors["last"] == ""
    assert words in errors["p"]
    assert "\n" not in errors["p"]
    assert [str(fault) for fault in catalog.faults] == [f"plugin 'p' is broken: {errors['p']}"]


BROKEN_CARDS = {
    "object": (3.5, "3.5", "registered 3.5; register takes a longatlas.Method, or the name of a module"),
    "class": (Method, repr(Method), "register takes a longatlas.Method"),
    "taken": (card("good"), "good", "the name of method 'good' is taken by plugin 'first'; names are unique"),
    "twice": (card("one"), "one", "the name of method 'one' is taken by another card of its plugin"),
    "family": (card("m", "misc/objectivs"), "m", "unknown family 'misc/objectivs'; did you mean"),
    "inner": (card("m", "misc"), "m", "family 'misc' is an inner node"),
    "module": ("no.such", "such", "registered 'no.such', and there is no such module; register takes"),
    "no card": ("longatlas.cards", "cards", "module 'longatlas.cards' has no METHOD; give it its card"),
}


@pytest.mark.parametrize("case", BROKEN_CARDS)
def test_of_three_cards_a_broken_one_takes_only_itself(case):
    bad, name, words = BROKEN_CARDS[case]
    catalog = build_catalog([source("first", card("good")), source("p", card("one"), bad, card("two"))])
    assert [method.name for method in catalog.plugins[1].methods] == ["one", "two"]
    (fault,) = catalog.faults
    assert (fault.plugin, fault.card, catalog.plugins[1].error) == ("p", name, "")
    assert words in fault.error


FOLDER = {
    "__init__": "from longatlas import method_folder\nregister_methods = method_folder(__name__)",
    "good": "METHOD = Method(name='good', title='G', family='misc/objectives', summary='One.', fills={})",
    "absent": "import no_such_module_at_all",
    "typo": "METHOD = Method(name='typo', title='T', family='misc/objectives', summary='One.', fills={'fnn': print})",
    "leaves": "raise SystemExit(3)",
    "other": "METHOD = Method(name='another', title='O', family='misc/objectives', summary='One.', fills={})",
    "_shared": "raise RuntimeError('nobody asked')",
}


def write_folder(folder):
    for name, text in FOLDER.items():
        (folder / f"{name}.py").write_text(f"from longatlas import Method\n{text}\n", encoding="utf-8")
    (folder / "also_good").mkdir()
    text = FOLDER["good"].replace("good", "also_good")
    (folder / "also_good" / "__init__.py").write_text(f"from longatlas import Method\n{text}\n", encoding="utf-8")


def test_a_folder_is_the_list_of_its_methods_and_each_fails_alone(tmp_path):
    folder = tmp_path / "my_methods"
    folder.mkdir()
    write_folder(folder)
    install(tmp_path, "my_methods", None)
    (row,) = [r for r in json.loads(longatlas("plugins", "--json", path=tmp_path).stdout) if r["name"] == "my_methods"]
    assert (row["methods"], row["error"]) == (["also_good", "good"], "")
    errors = {fault["card"]: fault["error"] for fault in row["broken"]}
    assert errors == {
        "absent": "ModuleNotFoundError: No module named 'no_such_module_at_all' (absent.py, line 2)",
        "leaves": "SystemExit: 3 (leaves.py, line 2)",
        "other": "module 'my_methods.other' holds the card of 'another'; rename one of the two",
        "typo": "unknown slot in method 'typo': 'fnn'; did you mean 'ffn'?",
    }
    assert "4 broken cards: `longatlas plugins` says why" in longatlas("list", path=tmp_path).stdout
    lines = longatlas("plugins", path=tmp_path).stdout
    assert all(name in lines for name in errors)
    said = longatlas("show", "typo", path=tmp_path, code=2).stderr
    assert "method 'typo' of plugin 'my_methods' is broken: unknown slot in method 'typo': 'fnn'" in said


def test_the_name_of_a_card_that_was_refused_stays_free():
    broken = source("broken", card("m", "no/family"))
    assert set(build_catalog([broken, source("later", card("m"))]).methods) == {"m"}


def test_ctrl_c_while_loading_is_no_broken_plugin():
    with pytest.raises(KeyboardInterrupt):
        load_plugins([source("p", load=raising(KeyboardInterrupt()))], load_taxonomy())


def test_what_a_plugin_prints_while_loading_is_no_answer(capsys):
    plugin = source("p", card("m")).load()

    def load():
        print("hello")
        return plugin

    (loaded,) = load_plugins([Source("p", load)], load_taxonomy())
    assert loaded.error == ""
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")


def test_hooks_are_documented_verbs():
    functions = {n: f for n, f in inspect.getmembers(hookspecs, inspect.isfunction) if n in HOOKS}
    assert set(functions) == set(HOOKS)
    for name, function in functions.items():
        assert name.startswith("register_")
        assert name in (hookspecs.__doc__ or "")
        assert inspect.getdoc(function).endswith(".")


def test_each_hook_is_called(monkeypatch):
    def register_tasks(register):
        from longatlas import Task

        register(Task(name="t", title="T", summary="One.", run=print, presets={}))

    both = SimpleNamespace(register_tasks=hookimpl(register_tasks))
    assert set(build_catalog([Source("p", lambda: both)]).tasks) == {"t"}


def install(folder, name, text):
    """A distribution with an entry point, as pip leaves it: a module and its dist-info."""
    if text is not None:
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[longatlas]\n{name} = {name}\n", encoding="utf-8")


def longatlas(*args, path, code=0):
    environment = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, "-m", "longatlas", *args],
        capture_output=True,
        text=True,
        env=environment,
        timeout=pace.seconds(120),
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


MISHAPS = {
    "bad_import": ("import no_such_module_at_all", "No module named 'no_such_module_at_all' (bad_import.py, line 1)"),
    "bad_exit": ("raise SystemExit(1)", "SystemExit: 1"),
    "bad_hook": (
        """
        from longatlas import hookimpl
        @hookimpl
        def register_metods(register): ...
        """,
        "unknown hook 'register_metods'; did you mean 'register_methods'?",
    ),
}
TAKEN = """
    from longatlas import Method, hookimpl
    @hookimpl
    def register_methods(register):
        for name in ("first", "yarn", "third"):
            register(Method(name=name, title="Y", family="misc/objectives", summary="One.", fills={}))
"""
GREETING = """
    import click
    from longatlas import hookimpl
    @hookimpl
    def register_commands(cli):
        @cli.command()
        def greet():
            "Say hello."
            click.echo("hello from a plugin")
"""
ENDS = """
    import ctypes, os, sys
    from torch import nn
    from longatlas import Method, hookimpl
    def segfault(config):
        ctypes.string_at(0)
    def leave(config):
        os._exit(0)
    def stop(config):
        sys.exit()
    def chatter(config):
        print("hello")
        return nn.Linear(config.d_model, config.d_model)
    @hookimpl
    def register_methods(register):
        for builder in (segfault, leave, stop, chatter):
            name = builder.__name__
            register(Method(name=name, title=name, family="misc/objectives", summary="One.", fills={"ffn": builder}))
"""
BAD_COMMANDS = """
    from longatlas import hookimpl
    @hookimpl
    def register_commands(cli):
        raise RuntimeError("no commands today")
"""
STEALS = """
    from longatlas import hookimpl
    @hookimpl
    def register_commands(cli):
        @cli.command("list")
        def mine():
            raise SystemExit(9)
"""


@pytest.fixture(scope="module")
def broken_home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    for name, (text, _) in MISHAPS.items():
        install(folder, name, text)
    install(folder, "taken", TAKEN)
    install(folder, "greeting", GREETING)
    install(folder, "bad_commands", BAD_COMMANDS)
    install(folder, "steals", STEALS)
    return folder


def test_broken_distributions_are_rows_with_their_errors(broken_home):
    rows = {row["name"]: row for row in json.loads(longatlas("plugins", "--json", path=broken_home).stdout)}
    for name, (_, words) in MISHAPS.items():
        assert words in rows[name]["error"]
        assert (rows[name]["version"], rows[name]["methods"]) == ("1.0", [])
    assert rows["taken"]["methods"] == ["first", "third"]
    (fault,) = rows["taken"]["broken"]
    assert fault["card"] == "yarn"
    assert "the name of method 'yarn' is taken by plugin 'extrapolative_pes'" in fault["error"]
    assert rows["extrapolative_pes"]["error"] == ""
    assert "yarn" in rows["extrapolative_pes"]["methods"]


def test_list_works_beside_broken_plugins_and_counts_them(broken_home):
    text = longatlas("list", path=broken_home).stdout
    assert "yarn" in text
    assert "3 broken plugins, 1 broken card: `longatlas plugins` says why" in text


def test_a_method_that_ends_the_process_costs_its_own_report(tmp_path):
    install(tmp_path, "ends", ENDS)
    done = longatlas("verify", "segfault", "chatter", "leave", "stop", "--json", path=tmp_path, code=1)
    reports = {report["method"]: report for report in json.loads(done.stdout)}
    assert {name: report["ok"] for name, report in reports.items()} == {
        "segfault": False,
        "chatter": True,
        "leave": False,
        "stop": False,
    }
    for name in ("segfault", "leave"):
        assert "it ended the process" in reports[name]["checks"][0]["detail"]
    assert reports["stop"]["checks"][0]["detail"] == "SystemExit: "
    assert "hello" in done.stderr


def test_commands_of_plugins(broken_home):
    greeting = longatlas("greet", path=broken_home)
    assert greeting.stdout == "hello from a plugin\n"
    assert "plugin 'bad_commands': its commands are left out: no commands today" in greeting.stderr
    assert "plugin 'steals': its commands are left out: command 'list' exists already" in greeting.stderr
    assert "Say hello." in longatlas("--help", path=broken_home).stdout
    assert "Warning" not in longatlas("list", path=broken_home).stderr
    assert "did you mean 'greet'?" in longatlas("gret", path=broken_home, code=2).stderr


@pytest.fixture(scope="module")
def example_home(tmp_path_factory):
    """The example plugin, installed by pip into a folder of its own, offline."""
    folder = tmp_path_factory.mktemp("example")
    command = "install --quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check --target"
    subprocess.run(
        [sys.executable, "-m", "pip", *command.split(), str(folder), str(EXAMPLE)],
        check=True,
        timeout=pace.seconds(120),
    )
    return folder


def test_the_example_plugin_is_listed_as_ready(example_home):
    rows = {row["name"]: row for row in json.loads(longatlas("list", "--json", path=example_home).stdout)}
    assert rows["dilated_window"]["status"] == "ready"
    assert rows["dilated_window"]["family"] == "efficient_attention/sparse/fixed_patterns"
    plugins = {row["name"]: row for row in json.loads(longatlas("plugins", "--json", path=example_home).stdout)}
    assert plugins["dilated_window"] == {
        "name": "dilated_window",
        "version": "0.1.0",
        "distribution": "longatlas-dilated-window",
        "methods": ["dilated_window"],
        "tasks": [],
        "error": "",
        "broken": [],
    }


def test_the_example_plugin_passes_verify(example_home):
    done = longatlas("verify", "dilated_window", "yarn+dilated_window:dilation=3", "--json", path=example_home)
    reports = json.loads(done.stdout)
    assert [report["ok"] for report in reports] == [True, True]
    statuses = {check["check"]: check["status"] for check in reports[0]["checks"]}
    assert statuses.pop("equals_vanilla") == "skipped"  # it does not say that it is exact
    assert statuses.pop("ranks_equal_one") == "skipped"  # nor that it computes with several ranks
    assert set(statuses.values()) == {"passed"}


def test_the_example_plugins_own_test_passes(example_home):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(example_home)},
        timeout=pace.seconds(120),
    )
    assert done.returncode == 0, done.stdout
