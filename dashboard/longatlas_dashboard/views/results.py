"""Results: every row with its provenance, filtered by the URL; out as a file and in from one; two runs compared."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pandas as pd
import streamlit as st

from longatlas.compare import SHIPPED, Side, compare, load_side
from longatlas.compare.comparison import SAME, VERDICTS, Line
from longatlas.compare.identity import newest as newest_of
from longatlas.compare.sides import side_of
from longatlas.errors import LongAtlasError
from longatlas.store import queries
from longatlas.store.transfer import import_rows
from longatlas_dashboard import controls, data, safe, settings, takeaway, ui, uploads

FILTERS = {"m": "method", "w": "measure", "p": "phase", "l": "level", "s": "status", "d": "device", "y": "dtype"}
FIRST = ["method", "measure", "phase", "T", "metric", "value", "unit", "low", "high", "status", "reason", "stale"]
CHANGE = ["verdict", "method", "phase", "metric", "T", "baseline", "candidate", "change", "unit"]
MOST = 200_000  # rows that a download holds; `longatlas results export` writes any number


def page() -> None:
    ui.header("Results", "One line per measured value; a cell that failed is a line too.")
    total = data.ask("counts")[0]
    if not total:
        ui.empty(
            "The store is empty: nothing has been measured yet.",
            command="longatlas demo",
            page="" if settings.read().read_only else "run",
            label="Run something small",
        )
    else:
        _rows(total)
        _two_runs()
    _import()


def _rows(total: int) -> None:
    chosen = _filters()
    with st.container(horizontal=True):
        newest = st.toggle("Only the newest row of each measurement", key="new", value=False, bind="query-params")
        complete = st.toggle(
            "Complete results only",
            key="full",
            value=False,
            bind="query-params",
            help="Methods that have a number wherever any method of the same setting, measure and level has a cell.",
        )
        today = st.toggle(
            "Without stale rows",
            key="today",
            value=False,
            bind="query-params",
            help="A row is stale when the code that measured it has changed since, or is not installed any more.",
        )
    sources = data.sources()
    which: dict[str, Any] = {"latest": newest, "complete": complete, "sources": sources if today else None}
    found = queries.count(data.store(), chosen, **which)
    st.caption(f"{found:,} of {total:,} rows · {safe.plain(data.store().name)}")
    if not found:
        ui.empty("No row matches. Take out a filter.")
        return
    number = _page_number(found)
    shown = queries.page(data.store(), chosen, **which, number=number, size=queries.PAGE)
    ui.table(
        flatten(queries.with_stale(shown, sources)),
        height=560,
        column_config={"created": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")},
    )
    _downloads(chosen, which, found)


def _filters() -> dict[str, list[str]]:
    places = st.columns(4)
    chosen = {}
    for number, (key, name) in enumerate(FILTERS.items()):
        with places[number % 4]:
            options = data.ask("values", name)
            chosen[name] = st.multiselect(name, options, key=key, bind="query-params", placeholder="all")
    return chosen


def _page_number(found: int) -> int:
    """Which page is shown, from 0; nothing to choose where there is one."""
    pages = -(-found // queries.PAGE)
    label = f"Page of {pages:,}, {queries.PAGE} rows each, the newest first"
    return 0 if pages == 1 else controls.page_number(label, pages, key="page")


def flatten(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows for a table: JSON columns as text, time as UTC, what matters most first."""
    frame = rows.assign(
        **{name: [json.dumps(value) for value in rows[name]] for name in ("options", "case", "versions")},
        created=pd.to_datetime(rows["created"], unit="s", utc=True),
    )
    rest = [name for name in frame.columns if name not in FIRST]
    return frame[[*FIRST, *rest]]


def _downloads(chosen: dict[str, list[str]], which: dict[str, Any], found: int) -> None:
    if found > MOST:
        st.caption(f"More than {MOST:,} rows: filter them, or write them all with `longatlas results export`.")
        return
    takeaway.downloads(lambda: queries.page(data.store(), chosen, **which, size=found, samples=True), key="rows")
    st.code("longatlas results export rows.parquet", language=None)


def _two_runs() -> None:
    """Two runs of this store, or one beside the shipped baseline, each measurement with its like."""
    ui.section("Two runs compared", "What changed; a difference inside the intervals is not called one.")
    if not st.toggle("Compare two runs", key="two", value=False, bind="query-params"):
        return
    runs = data.ask("runs")
    names = [data.run_text(run) for run in runs.to_dict("records")]
    sides = [*range(len(runs)), SHIPPED]
    words = [*names, "the baseline that is shipped"]
    texts = [*(f"{run['start']:.0f}" for run in runs.to_dict("records")), SHIPPED]
    left, right = st.columns(2)
    with left:
        before = controls.selected(
            "Baseline", range(len(sides)), key="a", default=1, words=words.__getitem__, name=texts.__getitem__
        )
    with right:
        after = controls.selected(
            "Candidate", range(len(runs)), key="b", default=0, words=names.__getitem__, name=texts.__getitem__
        )
    if before == after:
        st.info("Choose two different runs.", icon=":material/compare_arrows:")
        return
    try:
        baseline = load_side(SHIPPED) if sides[before] == SHIPPED else _side(runs, before)
        found = compare(baseline, _side(runs, after))
    except LongAtlasError as error:
        st.info(safe.plain(str(error)), icon=":material/compare_arrows:")
        return
    if found.across:
        st.caption("Different machines: values are ratios to vanilla on each.")
    counts = Counter(line.verdict for line in found.lines)
    st.markdown(safe.plain(", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())))
    changed = [line for line in found.lines if line.verdict != SAME]
    if changed:
        frame = changes(changed)
        ui.table(frame, height=min(420, 80 + 35 * len(frame)), key="compared")
    st.code('longatlas compare before.sqlite --fail "median:5%,peak_bytes:2%"', language=None)


def changes(lines: list[Line]) -> pd.DataFrame:
    """Lines of a comparison as a table: what is worse first, what was measured before how."""
    ordered = sorted(lines, key=lambda line: VERDICTS.index(line.verdict))
    frame = pd.DataFrame([line.as_dict() for line in ordered])
    return frame[[*CHANGE, *(name for name in frame.columns if name not in CHANGE)]]


def _side(runs: pd.DataFrame, place: int) -> Side:
    run = runs.iloc[place]
    rows = data.ask("rows_of_run", str(run["origin"]), float(run["start"]), float(run["end"]))
    return side_of(data.run_text(run.to_dict()), newest_of(rows))


def _import() -> None:
    """Rows of another machine, checked before anything of them is taken in."""
    ui.section(
        "Import", "Rows that `longatlas results export` wrote, here or elsewhere, or pytest-benchmark's saved runs."
    )
    if settings.read().read_only:
        st.caption("This dashboard is read-only: nothing is imported.")
        return
    if "imported" in st.session_state:
        st.success(safe.plain(st.session_state.pop("imported")), icon=":material/check:")
    if "import_error" in st.session_state:
        st.error(safe.plain(st.session_state.pop("import_error")), icon=":material/error:")
    file = st.file_uploader("CSV, JSON or Parquet, 5 MB at most", type=["csv", "json", "parquet"], key="upload")
    if file is None:
        return
    try:
        rows = uploads.rows(file.name, file.getvalue())
    except LongAtlasError as error:
        st.error(safe.plain(str(error)), icon=":material/error:")
        return
    machines = list(dict.fromkeys(row["machine"] for row in rows))
    cells = len({row["cell"] for row in rows})
    methods = list(dict.fromkeys(row["method"] for row in rows))
    st.markdown(
        f"{len(rows):,} rows of {cells:,} cells, measured on {safe.texts(machines[:5])}: {safe.texts(methods[:20])}"
    )
    st.button("Import", type="primary", on_click=_take, args=(rows, safe.cut(file.name, 80)), key="import")


def _take(rows: list[dict[str, Any]], name: str) -> None:
    try:
        if settings.read().read_only:
            raise LongAtlasError("this dashboard is read-only; start it without --read-only to import")
        done = import_rows(data.store(), rows, name)
        known = f"; {done.known} cells were there already" if done.known else ""
        st.session_state["imported"] = f"{name}: {done.rows} rows of {done.cells} cells imported{known}"
    except data.STORE_ERRORS as error:
        st.session_state["import_error"] = data.error_text(error)


page()
