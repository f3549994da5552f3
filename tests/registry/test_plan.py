"""The plan: one object from YAML, flags and Python, and its mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from longatlas import LongAtlasError
from longatlas.catalog import has_cuda, load_catalog
from longatlas.cli.measure import make_plan
from longatlas.cli.measure import run as run_command
from longatlas.harness.plan import KEYS, Plan, PlanError, load_plan, plan_from_values, plan_from_yaml
from longatlas.harness.running import as_plan

FULL = Plan(
    methods=("yarn:factor=4+sliding_window:window=64", "infini_attention:update=delta"),
    measure=("speed", "quality"),
    phases=("decode",),
    lengths=(64, 8),
    tasks=("mqar", "passkey"),
    preset="smoke",
    impl="reference",
    dtype="bfloat16",
    batch=2,
    layers=1,
    heads=2,
    head_size=16,
    kv_heads=1,
    corpus="/some where/text.txt",
    budget=0.5,
    timeout=30,
    threads=1,
    memory_gib=1.5,
    seed=7,
)
SMALL = Plan(methods=("vanilla",))


def from_command(arguments: list[str]) -> Plan:
    """What the command line makes of an argument list."""
    context = run_command.make_context("run", arguments[2:])
    values = {key: value for key, value in context.params.items() if key in KEYS}
    plan: Plan = make_plan(context.params["plan"], values)
    return plan


@pytest.mark.parametrize("plan", [FULL, SMALL])
def test_yaml_and_command_say_the_same(plan: Plan) -> None:
    assert plan_from_yaml(plan.to_yaml()) == plan
    assert from_command(plan.to_command()).hash == plan.hash
    assert plan_from_values(plan.as_dict()) == plan


def test_defaults_are_left_out() -> None:
    assert SMALL.to_yaml() == "methods:\n- vanilla\n"
    assert SMALL.to_command() == ["longatlas", "run", "--methods", "vanilla"]


def test_hash_is_of_the_meaning() -> None:
    assert Plan(methods=["vanilla", "vanilla"], timeout=600).hash == SMALL.hash  # type: ignore[arg-type]
    default = load_catalog().method("sliding_window").options[0].default
    assert Plan(methods=(f"sliding_window:window={default}",)).hash == Plan(methods=("sliding_window",)).hash
    assert Plan(methods=("vanilla",), seed=1).hash != SMALL.hash


def test_hashes_of_version_0_1_0_stay() -> None:
    assert SMALL.hash == "181ce556da87"
    plan = Plan(methods=("lightning_attention2",), impl="triton", lengths=(64,), heads=8, head_size=16)
    assert plan.hash == "808e50d4c667"
    assert plan.with_values({"kv_heads": 2}).hash != plan.hash


def test_several_impls_are_spelt_as_a_list_or_with_commas() -> None:
    plan = plan_from_yaml("methods: [lightning_attention2]\nimpl: [triton, peer:fla]")
    assert plan.impl == "triton,peer:fla"
    assert plan == from_command(["longatlas", "run", "--methods", "lightning_attention2", "--impl", "triton, peer:fla"])
    assert plan_from_yaml(plan.to_yaml()) == plan == from_command(plan.to_command())


def test_a_method_is_measured_in_those_impls_that_it_has() -> None:
    plan = Plan(methods=("lightning_attention2", "flash_attention"), impl="auto,torch,peer:fla,peer:flex")
    lightning, flash = plan.combinations
    assert plan.impls_of(lightning) == ("torch", "peer:fla")
    assert plan.impls_of(flash) == ("torch", "peer:flex")
    on_a_gpu = plan.with_values({"device": "cuda"})
    assert set(on_a_gpu.impls_of(lightning)) == {"triton", "torch", "peer:fla"} or not has_cuda()


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("methods: [vanilla]\nlengths: [64]\nseed: 3\n")
    plan = from_command(["longatlas", "run", str(file), "--lengths", "8, 16", "--methods", "alibi"])
    assert (plan.methods, plan.lengths, plan.seed) == (("alibi",), (8, 16), 3)


def test_relative_corpus_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert Plan(methods=("vanilla",), corpus="text").corpus == str(tmp_path / "text")


YAML_MISTAKES = {
    "methods: [vanilla]\nlenghts: [64]": "plan.yaml, line 2: unknown key 'lenghts'; did you mean 'lengths'?",
    "methods: [vanilla]\nlengths:\n- 64\n- -8": "line 4: lengths has -8; expected a whole number of at least 1",
    "methods: [vanilla]\nlengths: [true]": "plan.yaml, line 2: lengths has True",
    "methods: [vanilla]\nlengths: [64.0]": "plan.yaml, line 2: lengths has 64.0",
    "methods: [vanilla]\nlengths: 64": "plan.yaml, line 2: lengths is 64; expected a list",
    "methods: [vanilla]\nlengths: []": "plan.yaml, line 2: lengths is empty",
    "methods: [vanilla]\nlengths: [1000000000000000000000]": "plan.yaml, line 2: lengths has 1000000000000000000000",
    "methods: [vanilla]\nphases: []": "plan.yaml, line 2: phases is empty; name some of train, prefill, decode",
    "methods: [vanilla]\nmeasure: []": "line 2: measure is empty; name some of speed, memory",
    "methods: [vanilla]\ntasks: []": "plan.yaml, line 2: tasks is empty; name some of language_model",
    "methods: []": "plan.yaml, line 1: methods is empty",
    "seed: 1": "plan.yaml, line 1: the file lacks the key 'methods'",
    "methods: vanilla": "plan.yaml, line 1: methods is 'vanilla'; expected a list",
    "methods:\n- vanilla\n- [vanilla]": "plan.yaml, line 3: methods has ['vanilla']; expected text",
    "methods:\n- vanilla\n- vanila": "line 3: methods has an error: unknown method 'vanila'; did you mean 'vanilla'?",
    "methods: ['sliding_window:windw=3']": "option of method 'sliding_window': 'windw'; did you mean 'window'?",
    "methods: ['sliding_window:window=0']": "option 'window' is 0; expected a whole number of at least 1",
    "methods: ['sliding_window:window']": "'window' in the spec 'sliding_window:window' is no option; write",
    "methods: ['yarn+alibi']": "'yarn' and 'alibi' both fill the slot 'position'",
    "methods: ['vanilla+']": "names no method at one place",
    "methods: [vanilla]\nphases: [train, prefil]": "line 2: phases has the unknown value 'prefil'; did you mean",
    "methods: [vanilla]\nmeasure: [sped]": "did you mean 'speed'?",
    "methods: [vanilla]\ntasks: [mqr]": "did you mean 'mqar'?",
    "methods: [vanilla]\npreset: quik": "plan.yaml, line 2: preset is the unknown value 'quik'; did you mean 'quick'?",
    "methods: [vanilla]\npreset: 5": "plan.yaml, line 2: preset is 5; expected one of smoke, demo, quick, paper",
    "methods: [vanilla]\nseed: true": "plan.yaml, line 2: seed is True; expected a whole number",
    "methods: [vanilla]\nseed: -1": "plan.yaml, line 2: seed is -1",
    "methods: [vanilla]\nbudget: true": "plan.yaml, line 2: budget is True; expected a number of at least 0.01",
    "methods: [vanilla]\nbudget: .nan": "plan.yaml, line 2: budget is nan",
    "methods: [vanilla]\nmemory_gib: .inf": "plan.yaml, line 2: memory_gib is inf",
    "methods: [vanilla]\ntimeout: 0.5": "line 2: timeout is 0.5; expected a number of at least 1",
    "methods: [vanilla]\nhead_size: 3": "plan.yaml, line 2: head_size is 3; it must be even",
    "methods: [vanilla, alibi]\nimpl: triton": "line 2: impl is 'triton', which 'vanilla' does not have; it has: auto",
    "methods: [vanilla]\nimpl: [torch, peer:fla]": "line 2: impl has 'peer:fla', which no method of the plan has; they",
    "methods: [vanilla, lightning_attention2]\nimpl: triton, peer:fla": "impl is 'triton,peer:fla', which 'vanilla'",
    "methods: [vanilla]\nimpl: []": "line 2: impl is empty; name one, such as auto",
    "methods: [vanilla]\nimpl: [1]": "line 2: impl is [1]; expected text",
    "methods: [vanilla]\nkv_heads: 3": "line 2: kv_heads is 3; it must be a divisor of heads, 4",
    "methods: [vanilla]\nkv_heads: -1": "line 2: kv_heads is -1; expected a whole number of at least 0",
    "methods: [vanilla]\nmethods: [alibi]": "plan.yaml, line 2: the file has the key 'methods' twice",
    "- vanilla": "must be a mapping",
    "": "the file is empty",
    "methods: [": "not valid YAML",
}


@pytest.mark.parametrize("text", YAML_MISTAKES)
def test_yaml_mistakes_have_line_and_rule(text: str) -> None:
    with pytest.raises(LongAtlasError) as caught:
        plan_from_yaml(text)
    assert YAML_MISTAKES[text] in str(caught.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"methods": "vanilla"}, "methods is 'vanilla'; expected a list"),
        ({"methods": [5]}, "methods has 5; expected text"),
        ({"methods": ["vanilla"], "lengths": ["64"]}, "lengths has '64'; expected a whole number"),
        ({"methods": ["vanilla"], "lengths": [True]}, "lengths has True"),
        ({"methods": ["vanilla"], "preset": 3}, "preset is 3; expected one of smoke"),
        ({"methods": ["vanilla"], "batch": 1.0}, "batch is 1.0"),
        ({"methods": ["vanilla"], "lenghts": [64]}, "unknown key 'lenghts'; did you mean 'lengths'?"),
        ({"lengths": [64]}, "methods is missing"),
    ],
)
def test_mistakes_in_a_mapping(values: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanError) as caught:
        as_plan(values)
    assert told in str(caught.value)


def test_what_is_not_measured_may_be_empty() -> None:
    assert Plan(methods=("vanilla",), measure=("quality",), lengths=(), phases=()).lengths == ()
    assert Plan(methods=("vanilla",), measure=("speed",), tasks=()).tasks == ()


def test_changed_values_are_checked() -> None:
    assert SMALL.with_values({"lengths": (8,)}).lengths == (8,)
    with pytest.raises(PlanError, match="lengths has -1"):
        SMALL.with_values({"lengths": (-1,)})


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(LongAtlasError, match=f"cannot read {path}"):
            load_plan(path)


def test_flags_that_are_no_numbers() -> None:
    with pytest.raises(LongAtlasError, match="--lengths has 'x'; expected a whole number of at least 1"):
        from_command(["longatlas", "run", "--methods", "vanilla", "--lengths", "64,x"])
    with pytest.raises(LongAtlasError, match="--seed is 'x'; expected a whole number"):
        from_command(["longatlas", "run", "--methods", "vanilla", "--seed", "x"])
    with pytest.raises(LongAtlasError, match="nothing to run; give a PLAN"):
        from_command(["longatlas", "run", "--lengths", "64"])
