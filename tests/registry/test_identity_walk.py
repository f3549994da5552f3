"""Every module of the product in turn: a changed constant in it changes the keys of the cells that it computes."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from longatlas.catalog import load_catalog
from longatlas.combination import parse_spec
from longatlas.harness.cells import expand
from longatlas.harness.plan import Plan
from longatlas.identity import Code
from longatlas.identity.module import TOLD, parse_source, read_source
from longatlas.measure import bench
from longatlas.measures import MEASURES

ROOT = Path(__file__).parents[2]
FOLDERS = {"longatlas": ROOT / "registry" / "longatlas", "longatlas_plugins": ROOT / "plugins" / "longatlas_plugins"}
# Rooms and modules that compute no number: what they decide stands in the cell itself.
TELLING = ("bench", "cli", "compare", "harness", "identity", "scaffold", "store", "tasks.cards", "tasks.mad_cards")
TELLING += (
    "cards",
    "catalog",
    "columns",
    "footprint",
    "hookspecs",
    "lazy",
    "measures",
    "plugins",
    "published",
    "rules",
)
TELLING += ("taxonomy", "yamlfile", "__main__", "tasks.presets", "tasks.estimate", "measure.bench", "measure.influence")
TELLING += ("measure.influence_map", "measure.footprint", "testing.runner", "testing.compiled")
OF_ONE_MEASURE = {
    "measure.timed": "speed",
    "measure.speed": "speed",
    "measure.policies": "speed",
    "measure.ranked_time": "speed",
    "measure.ranked_memory": "memory",
    "measure.roofline": "speed",
    "measure.memory": "memory",
    "tasks.session": "quality",
    "tasks.training": "quality",
    "tasks.sweep": "quality",
    "tasks.hosts": "quality",
    "tasks.corpus": "quality",
}
OF_TASKS = {
    "tasks.language_model": {"language_model"},
    "tasks.mqar": {"mqar", "overwrite_recall"},
    "tasks.overwrite_recall": {"overwrite_recall"},
    "tasks.passkey": {"passkey", "segment_passkey"},
    "tasks.segment_passkey": {"segment_passkey"},
    "tasks.induction": {"induction"},
    "tasks.mad": {name for name in load_catalog().tasks if name.startswith("mad_")},
}


class Subject(NamedTuple):
    """Cells that the same code computes; `task` is "" but for quality."""

    method: str
    measure: str
    task: str = ""

    def source(self, code: Code) -> str:
        task = load_catalog().task(self.task) if self.task else None
        return code.of(parse_spec(self.method), self.measure, task, "smoke" if task else "")


def subjects() -> list[Subject]:
    found = [Subject(name, measure) for name in load_catalog().methods for measure in ("speed", "memory")]
    found += [Subject(name, "quality", "mqar") for name in load_catalog().methods]
    return found + [Subject("vanilla", "quality", task) for task in load_catalog().tasks if task != "mqar"]


def modules() -> Iterator[tuple[str, Path]]:
    for top, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((top, *(parts[:-1] if parts[-1] == "__init__" else parts))), path


class Changed(ast.NodeTransformer):
    """Changes the first constant that counts, and nothing else; a module without one gets one."""

    def __init__(self) -> None:
        self.done = False

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        return node if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        return node if ast.unparse(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        return node if getattr(node.func, "id", "") in TOLD else self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self.done or isinstance(node.value, bool) or not isinstance(node.value, int | float):
            return node
        self.done = True
        return ast.copy_location(ast.Constant(node.value + 1), node)


def with_a_changed_constant(text: str) -> str:
    change = Changed()
    tree = change.visit(ast.parse(text))
    return ast.unparse(tree) + ("" if change.done else "\nCHANGED = 1\n")


def without_changes_that_count(path: Path) -> str:
    """Comments away, layout anew, other docstrings."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant("Other words."))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Method", "Task"):
            for keyword in node.keywords:
                if keyword.arg == "summary":
                    keyword.value = ast.Constant("Another summary.")
    return "# another comment\n" + ast.unparse(ast.fix_missing_locations(tree))


@pytest.fixture(scope="module")
def walked() -> tuple[dict[str, set[Subject]], set[str]]:
    """Module -> the cells whose keys a changed constant changes, and the modules that no comment may matter to."""
    code, every = Code(), subjects()
    before = {subject: subject.source(code) for subject in every}
    changed: dict[str, set[Subject]] = {}
    told: set[str] = set()
    for name, path in modules():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        source = read_source(path, name)
        if parse_source(without_changes_that_count(path).encode(), package).digest != source.digest:
            told.add(name)
        other = parse_source(with_a_changed_constant(path.read_text()).encode(), package)
        assert other.digest != source.digest, name
        kept, code._sources[name] = code._sources.get(name), other
        changed[name] = {subject for subject in every if subject.source(code) != before[subject]}
        code._sources[name] = kept
    return changed, told


def test_comments_docstrings_layout_and_summaries_change_no_key(walked: Any) -> None:
    assert walked[1] == set()


def test_what_tells_and_what_finds_measures_nothing_anew(walked: Any) -> None:
    changed, _ = walked
    telling = {f"longatlas.{name}" for name in TELLING}
    seen = {name for name in changed if any(name == one or name.startswith(f"{one}.") for one in telling)}
    assert telling <= {".".join(name.split(".")[: one.count(".") + 1]) for name in seen for one in telling}
    assert {name for name in seen if changed[name]} == set()
    assert not changed["longatlas"]


def test_a_module_of_one_measure_or_task_measures_no_other_anew(walked: Any) -> None:
    changed, _ = walked
    every = subjects()
    for name, measure in OF_ONE_MEASURE.items():
        assert changed[f"longatlas.{name}"] == {subject for subject in every if subject.measure == measure}, name
    for name, tasks in OF_TASKS.items():
        assert changed[f"longatlas.{name}"] == {subject for subject in every if subject.task in tasks}, name


def test_a_module_of_a_method_measures_that_method_anew(walked: Any) -> None:
    """And what is trained with it as a host: retrofit methods in quality, with vanilla."""
    changed, _ = walked
    for method in load_catalog().methods.values():
        folder = {builder.__module__ for builder in method.fills.values()}
        (module,) = folder
        retrofit = {s for s in subjects() if method.name in host_names(s) and s.measure == "quality"}
        assert changed[module] >= {s for s in subjects() if s.method == method.name} | retrofit, method.name
        others = {s.method for s in changed[module]} - {method.name} - {s.method for s in retrofit}
        assert all(uses(other, module) for other in others), (method.name, others)


def host_names(subject: Subject) -> list[str]:
    return [part.method.name for part in parse_spec(subject.method).host.parts]


def uses(method: str, module: str) -> bool:
    """Whether a file beside a method's builders names a module."""
    (builder, *_) = parse_spec(method).parts[0].method.fills.values()
    folder = Path(str(sys.modules[builder.__module__].__file__)).parent
    return any(module in path.read_text() for path in folder.rglob("*.py"))


def test_shared_kernels_measure_those_anew_that_import_them(walked: Any) -> None:
    changed, _ = walked
    for shared in ("primitives", "tiles"):
        found = {subject.method for subject in changed[f"longatlas.kernels.{shared}"]}
        assert found == {name for name in load_catalog().methods if imports_kernels(name, shared)}, shared
        assert 0 < len(found) < len(load_catalog().methods)


def imports_kernels(method: str, shared: str) -> bool:
    (builder, *_) = parse_spec(method).parts[0].method.fills.values()
    folder = Path(str(sys.modules[builder.__module__].__file__)).parent
    if not (folder / "kernels").is_dir():
        return False
    texts = "".join(path.read_text() for path in folder.rglob("*.py"))
    names = ("longatlas.kernels.tiles", "padded", "processors") if shared == "tiles" else (f"kernels.{shared}",)
    return any(name in texts for name in names) or f"from longatlas.kernels import {shared}" in texts


@pytest.mark.parametrize("measure", ["speed", "memory", "quality"])
@pytest.mark.parametrize("method", ["yarn", "infini_attention"])
def test_every_module_that_runs_counts(method: str, measure: str, tmp_path: Path) -> None:
    """Nothing of the product runs while a cell is measured that its key does not know of."""
    values: dict[str, Any] = {"lengths": (16,), "phases": ("train",), "budget": 0.01, "tasks": ("mqar",)}
    cell = expand(Plan((method,), measure=(measure,), preset="smoke", threads=1, **values))[0]
    bench.gate.verdict.cache_clear()
    ran = files_that_run(lambda: measured(cell, tmp_path))
    code, task = Code(), load_catalog().task("mqar") if measure == "quality" else None
    code.of(parse_spec(method), measure, task, "smoke")
    (closure,) = code._closures.values()
    known = {f"longatlas.{name}" for name in TELLING} | {"longatlas"}
    places = {path: name for name, path in modules()}
    unknown = {places[path] for path in ran & places.keys()} - set(closure)
    assert {n for n in unknown if not any(n == k or n.startswith(f"{k}.") for k in known)} == set()
    assert len(ran & {path for path, name in places.items() if name in closure}) > 10


def measured(cell: Any, cache: Path) -> None:
    from dataclasses import asdict

    made, function = bench.Bench(), MEASURES[cell.measure].function
    answer = (
        made.prepare(cell=asdict(cell), function=function)
        if cell.measure == "speed"
        else made.measure(cell=asdict(cell), cache=str(cache), function=function)
    )
    while "rows" not in answer:
        answer = made.sample(seconds=0.01)
    assert answer["rows"][0].get("status", "ok") == "ok", answer


def files_that_run(call: Any) -> set[Path]:
    ran: set[str] = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            ran.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(before)
    return {Path(name) for name in ran}
