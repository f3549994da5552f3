"""What the command line prints, its JSON, and its exit codes."""

import json
import subprocess
import sys
from io import StringIO

import click
import pace
import pytest
from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from longatlas import Method, cli, hookimpl, testing
from longatlas.catalog import build_catalog, load_catalog
from longatlas.cli import develop, explore, main
from longatlas.cli.output import table
from longatlas.plugins import Source
from longatlas.taxonomy import taxonomy_path


@pytest.fixture
def run(capsys):
    """Run a command line in this process: (exit code, stdout, stderr)."""

    def call(*args):
        with pytest.raises(SystemExit) as stop:
            main(args)
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return call


def as_json(result):
    code, out, _ = result
    assert code == 0
    return json.loads(out)


def test_list_json_has_every_method_with_its_facts(run):
    rows = as_json(run("list", "--json"))
    assert {row["name"] for row in rows} == set(load_catalog().methods)
    keys = {"name", "title", "family", "paper", "summary", "status", "slots", "training", "options", "cost"}
    assert all(keys <= row.keys() for row in rows)
    yarn = next(row for row in rows if row["name"] == "yarn")
    assert yarn["options"][0] == {
        "name": "factor",
        "default": 4.0,
        "help": yarn["options"][0]["help"],
        "unit": "",
        "min": 1,
        "max": None,
        "choices": [],
    }
    assert yarn["cost"] == {"time": "T^2", "state": "T", "train_time": ""}


def test_list_filters(run):
    rows = as_json(run("list", "--family", "extrapolative_pes/extended_rope", "--json"))
    assert {row["name"] for row in rows} >= {"yarn", "ntk_rope", "position_interpolation"}
    assert "sliding_window" not in {row["name"] for row in rows}
    assert as_json(run("list", "--status", "described only", "--json")) == []
    code, out, _ = run("list", "--family", "misc")
    assert code == 0
    assert "int8_weights" in out
    assert f"of {len(load_catalog().methods)} methods" in out


def test_no_column_is_cut_off(run):
    _, out, _ = run("list")
    for method in load_catalog().methods.values():
        assert method.family in out


def test_show_prints_the_whole_card(run):
    code, out, _ = run("show", "yarn")
    assert code == 0
    method = load_catalog().method("yarn")
    words = " ".join(out.split())
    for text in (
        method.title,
        method.summary,
        "https://arxiv.org/abs/2309.00071",
        "Extrapolative PEs > ",
        "at least 1",
        "auto is 'torch' here: the first of its impls that runs here",
        method.deviations,
        method.source,
        *method.equations,
        "NTK-by-parts",
    ):
        assert " ".join(text.split()) in words


def test_show_json(run):
    card = as_json(run("show", "transformer_xl", "--json"))
    assert card["impls"][-1] == "reference"
    assert card["auto_impl"] in card["impls"]
    assert card["paper_address"] == "https://arxiv.org/abs/1901.02860"
    assert "Segatron" in {paper["name"] for paper in card["papers"]}
    assert card["remedies"] == []


def test_show_tells_what_the_formulas_give(run):
    width, t = 8 * 64, 4096
    found = as_json(run("show", "vanilla", "--json"))["formulas"]
    assert found == {
        "tokens": t,
        "heads": 8,
        "head_size": 64,
        "prefill_flops": 4 * width * (t * (t + 1) // 2),
        "decode_flops": 4 * width * (t + 1),
        "state_size": 2 * width * t,
    }
    words = " ".join(run("show", "vanilla")[1].split())
    assert "17,184,063,488 for 4096 tokens, 8,390,656 for the next one (one layer of 8 heads of 64" in words
    assert "4,194,304 numbers after 4096 tokens" in words
    assert as_json(run("show", "passage_selection", "--json"))["formulas"]["prefill_flops"] is None
    assert "operations" not in run("show", "passage_selection")[1]


def test_taxonomy(run):
    tree = as_json(run("taxonomy", "--json"))
    assert len(tree["roots"]) == 6
    leaf = as_json(run("taxonomy", "efficient_attention/local/sliding_window", "--json"))
    assert leaf["methods"] == [{"name": "sliding_window", "status": "ready"}]
    assert leaf["runnable_count"] == 1
    assert "Longformer" in {paper["name"] for paper in leaf["papers"]}
    _, out, _ = run("taxonomy")
    assert "streaming_llm" in out
    assert "Longformer:" not in out
    assert "Longformer:" in run("taxonomy", "--papers")[1]
    assert "Longformer:" in run("taxonomy", "efficient_attention/local")[1]


def test_taxonomy_check(run, tmp_path):
    code, out, _ = run("taxonomy", "--check", str(taxonomy_path()))
    assert (code, out.startswith("ok: 5 families, 47 leaves, ")) == (0, True)
    broken = tmp_path / "mine.yaml"
    broken.write_text("version: 1\nsurvey: 3\n")
    code, _, err = run("taxonomy", "--check", str(broken))
    assert (code, err) == (2, "Error: mine.yaml, line 2: survey must be a mapping (key: value)\n")


def test_plugins(run):
    rows = {row["name"]: row for row in as_json(run("plugins", "--json"))}
    assert rows["misc"].keys() >= {"name", "version", "distribution", "methods", "tasks", "error"}
    assert rows["misc"]["distribution"] == "longatlas"
    assert "mqar" in rows["tasks"]["tasks"]
    assert "int8_weights" in run("plugins")[1]


def test_doctor_makes_nothing_and_always_ends_well(run, tmp_path, monkeypatch):
    store = tmp_path / "new" / "store.sqlite"
    monkeypatch.setenv("LONGATLAS_STORE", str(store))
    found = as_json(run("doctor", "--json"))
    assert found["machine"]["store"] == f"{store} (not there yet; can be made there)"
    assert not store.parent.exists()
    assert found["machine"]["torch"].startswith("2.")
    assert {m["name"]: m["auto_impl"] for m in found["methods"]}["yarn"] == "torch"
    (tmp_path / "text").write_text("no database at all, but long enough to be read as one" * 20)
    monkeypatch.setenv("LONGATLAS_STORE", str(tmp_path / "text"))
    code, out, _ = run("doctor")
    assert code == 0
    assert "is no SQLite file" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["lsit"], "unknown command 'lsit'; did you mean 'list'?"),
        (["show", "yran"], "unknown method 'yran'; did you mean 'yarn'?"),
        (["list", "--family", "efficient_atention"], "did you mean 'efficient_attention'?"),
        (["list", "--status", "redy"], "unknown status 'redy'; did you mean 'ready'?"),
        (["list", "--famly", "misc"], "No such option '--famly'"),
        (["taxonomy", "misc/objectivs"], "did you mean 'misc/objectives'?"),
        (["taxonomy", "--check", "none.yaml"], "cannot read none.yaml: No such file"),
        (["verify"], "verify takes the names of methods, or --all"),
        (["verify", "yarn", "--all"], "verify takes the names of methods, or --all"),
        (["verify", "vanilla", "yran"], "unknown method 'yran'; did you mean 'yarn'?"),
        (["verify", "yarn:factor=0"], "option 'factor' is 0.0; expected a number of at least 1"),
        (["verify", "yarn+alibi"], "'yarn' and 'alibi' both fill the slot 'position'"),
        (["verify", "yarn", "--device", "tpu"], "--device is 'tpu'; it must be cpu or cuda"),
    ],
)
def test_bad_input_is_an_error_with_exit_code_2(run, args, words):
    code, out, err = run(*args)
    assert (code, out) == (2, "")
    assert words in err
    assert "Error: " in err


def test_verify_prints_a_table_and_reports(run):
    code, out, _ = run("verify", "yarn:factor=2+sliding_window")
    assert code == 0
    assert "state_growth" in out
    assert "1 of 1 methods pass" in out
    reports = as_json(run("verify", "flash_attention", "--json"))
    assert [(r["method"], r["ok"]) for r in reports] == [("flash_attention", True)]


def test_verify_ends_with_1_when_a_check_fails(run, monkeypatch):
    failed = testing.Report("yarn", (testing.CheckResult("causality", "failed", "token 3 [bold]leaks[/bold]"),))
    monkeypatch.setattr(develop, "_verify", lambda specs, device, timeout: [failed])
    code, out, _ = run("verify", "yarn")
    assert code == 1
    assert "token 3 [bold]leaks[/bold]" in out
    assert "failing: yarn" in out
    code, out, _ = run("verify", "yarn", "--json")
    assert (code, json.loads(out)[0]["ok"]) == (1, False)


def test_a_narrow_table_keeps_names_whole():
    rows = [["parallel_context_windows", "a/long/path/of/the/taxonomy", "and some more words", "retrofit"]]
    out = Console(width=60, file=StringIO())
    out.print(table(["name", "family", "words", "training"], rows))
    text = out.file.getvalue()
    assert "parallel_context_windows" in text
    assert "retrofit" in text


def test_ctrl_c_is_one_line_and_130(run, monkeypatch):
    @click.command()
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.cli, "get_command", lambda ctx, name: stopped)
    code, _, err = run("stopped")
    assert (code, err.strip()) == (130, "Interrupted.")


def test_unsupported_is_an_error_too(run, monkeypatch):
    from longatlas import UnsupportedError

    @click.command()
    def stopped():
        raise UnsupportedError("no kernel for this shape")

    monkeypatch.setattr(cli.cli, "get_command", lambda ctx, name: stopped)
    assert run("stopped")[::2] == (2, "Error: no kernel for this shape\n")


def test_the_module_and_the_script_are_the_same_program(run):
    for start in ([sys.executable, "-m", "longatlas"], [f"{sys.prefix}/bin/longatlas"]):
        done = subprocess.run([*start, "--version"], capture_output=True, text=True, timeout=pace.seconds(60))
        assert done.stdout.startswith("longatlas 0.")


def test_ascii_terminals_get_question_marks_not_a_crash():
    done = subprocess.run(
        [sys.executable, "-m", "longatlas", "taxonomy", "--papers"],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": ""},
        timeout=pace.seconds(60),
    )
    assert done.returncode == 0
    assert b"?-former" in done.stdout


NASTY = "red \x1b[31m\x9b2J bell \x07 turn \u202e\u2067 half \ud800 end"


def test_what_a_terminal_would_obey_is_left_out(monkeypatch, capsys):
    from longatlas.cli.output import console

    out = console()
    for renderable in (NASTY, Text(NASTY), table(["a", "b"], [[NASTY, 1]]), Group(Padding(Text(NASTY), 1))):
        out.print(renderable)
    printed = capsys.readouterr().out
    assert printed.count("red [31m2J bell  turn  half  end") == 4
    assert not set(printed) & set(NASTY) - set("red [31m2J bell turn half end")


def odd_catalog(monkeypatch, **facts):
    """A catalog whose one method has these facts."""
    card = {"title": "Odd", "family": "misc/objectives", "summary": "One.", "fills": {}}

    class Brings:
        @hookimpl
        def register_methods(self, register):
            register(Method(name="odd", **{**card, **facts}))

    made = build_catalog([Source("odd", Brings)])
    assert made.plugins[0].error == ""
    monkeypatch.setattr(explore, "load_catalog", lambda: made)


def test_show_survives_formulas_that_fail(run, monkeypatch):
    odd_catalog(monkeypatch, flops=lambda call: "x", state_size=lambda call: 1 // 0)
    code, out, err = run("show", "odd")
    assert (code, err) == (0, "")
    assert "the card's `flops` fails or gives no number" in out
    assert "the card's `state_size` fails or gives no number" in out
    formulas = as_json(run("show", "odd", "--json"))["formulas"]
    assert (formulas["prefill_flops"], formulas["decode_flops"], formulas["state_size"]) == (None, None, None)


@pytest.mark.parametrize(
    ("paper", "address"),
    [
        ("1901.02860", "https://arxiv.org/abs/1901.02860"),
        ("cs/0112017", "https://arxiv.org/abs/cs/0112017"),
        ("https://a.example/b", "https://a.example/b"),
        ("javascript:alert(1)", ""),
        ("javascript://a.example/%0aalert(1)", ""),
        ("a book", ""),
        ("", ""),
    ],
)
def test_only_what_is_one_becomes_an_address(run, monkeypatch, paper, address):
    odd_catalog(monkeypatch, paper=paper)
    assert as_json(run("show", "odd", "--json"))["paper_address"] == address
    shown = run("show", "odd")[1]
    assert paper in shown
    assert address or not paper or f"abs/{paper}" not in shown
