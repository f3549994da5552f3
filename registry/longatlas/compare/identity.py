"""What makes two rows the same measurement."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from longatlas.measures import shaped

if TYPE_CHECKING:
    import pandas as pd

# A setting is what a cell was measured under; between machines neither the machine nor its threads can be asked for.
SETTING = ("measure", "phase", "level", "policy", "cell_T", "case_text", "device", "dtype", "seed")
MACHINE = ("machine", "threads")
METHOD = ("method", "impl")


def with_identity(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with their case as text, and their cell's T, which is 0 for a task as its rows have several."""
    return rows.assign(
        case_text=[_case_text(case) for case in rows["case"]],
        cell_T=rows["T"].where(rows["measure"].isin(shaped()), 0),
    )


def newest(rows: pd.DataFrame) -> pd.DataFrame:
    """Only the newest cell of each measurement: a repeat replaces what it repeats, failed or not."""
    known = with_identity(rows).sort_values("created", kind="stable")
    last = known.groupby([*METHOD, *SETTING, *MACHINE], sort=False)["cell"].transform("last")
    return rows.loc[known.index[known["cell"] == last].sort_values()].reset_index(drop=True)


def in_settings_of(rows: pd.DataFrame, other: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Those rows whose setting, and whose value of the columns `more`, `other` has too."""
    names = [*SETTING, *more]
    wanted = set(with_identity(other)[names].itertuples(index=False, name=None))
    return rows[[place in wanted for place in with_identity(rows)[names].itertuples(index=False, name=None)]]


def is_chosen(method: str, chosen: Sequence[str]) -> bool:
    """Whether a spec is one of those chosen; a bare name stands for every spec of that method, none for all."""
    bare = method.partition(":")[0] if "+" not in method else method
    return not chosen or method in chosen or bare in chosen


def _case_text(case: dict[str, Any]) -> str:
    """A corpus is known by its digest: where it lies does not matter."""
    known = {key: value for key, value in case.items() if key != "corpus" or "corpus_digest" not in case}
    return json.dumps(known, sort_keys=True)
