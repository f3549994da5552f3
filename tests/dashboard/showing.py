"""The app opened at a page without a browser, and what of it tests look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pace
import pandas as pd
from streamlit.testing.v1 import AppTest

from longatlas import catalog
from longatlas.catalog import Catalog
from longatlas.plugins import Plugin
from longatlas_dashboard import ui

APP = Path(ui.__file__).with_name("app.py")


PAGES = sorted(path.stem for path in ui.PAGES.glob("*.py"))


def show(page: str, /, **query: str) -> AppTest:
    """The app after it has been opened at a page."""
    app = AppTest.from_file(str(APP), default_timeout=pace.seconds(30))
    if page != "home":
        app.run()
        app.switch_page(f"views/{page}.py")
    for name, value in query.items():
        app.query_params[name] = value
    return app.run()


def texts(app: AppTest) -> str:
    """All words on the page."""
    kinds = ("title", "header", "subheader", "markdown", "caption", "text", "error", "warning", "info", "code")
    return "\n".join(str(element.value) for kind in kinds for element in getattr(app, kind))


def frame_with(app: AppTest, column: str) -> pd.DataFrame:
    """The first table of a page that has a column."""
    return next(element.value for element in app.dataframe if column in element.value)


def charts_of(app: AppTest) -> list[Any]:
    return list(app.get("arrow_vega_lite_chart") or app.get("vega_lite_chart"))


def with_plugins(*plugins: Plugin) -> Catalog:
    real = catalog.load_catalog()
    return Catalog([*real.plugins, *plugins], real.taxonomy)
