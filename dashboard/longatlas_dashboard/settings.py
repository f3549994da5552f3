"""What the launcher tells the app, through the environment: a command line would show the token to all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

STORE = "LONGATLAS_STORE"
READ_ONLY = "LONGATLAS_DASHBOARD_READ_ONLY"
TOKEN = "LONGATLAS_DASHBOARD_TOKEN"


@dataclass(frozen=True)
class Settings:
    """store: path or URL, "" = the default. token: "" = none is asked for."""

    store: str = ""
    read_only: bool = False
    token: str = ""


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    return Settings(
        store=environment.get(STORE, ""),
        read_only=environment.get(READ_ONLY, "") == "1",
        token=environment.get(TOKEN, ""),
    )
