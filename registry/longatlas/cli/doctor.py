"""`longatlas doctor`: what this machine has, and why something cannot run on it."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from longatlas.catalog import auto_impl, has_cuda, load_catalog, obstacles
from longatlas.cli.output import console, print_json, table

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MODULES = ("torch", "triton", "pandas", "SQLAlchemy", "streamlit", "pytest-benchmark", "playwright")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def doctor(as_json: bool) -> None:
    """Say what this machine has, and why a method cannot run here."""
    found = _examine()
    if as_json:
        print_json(found)
        return
    out = console()
    out.print(table(("part", "found"), [(key, value) for key, value in found["machine"].items()]))
    rows = [(m["name"], m["status"], m["auto_impl"], m["auto_reason"], m["remedy"]) for m in found["methods"]]
    out.print(table(("method", "status", "auto", "because", "remedy"), rows))
    for fault in load_catalog().faults:
        out.print(str(fault), style="red")


def _examine() -> dict[str, Any]:
    catalog = load_catalog()
    methods = []
    for method in catalog.select():
        problems, (impl, reason) = obstacles(method), auto_impl(method)
        methods.append(
            {
                "name": method.name,
                "status": problems[0][0] if problems else "ready",
                "remedy": "; ".join(remedy for _, remedy in problems),
                "auto_impl": "" if problems else impl,
                "auto_reason": "" if problems else reason,
            }
        )
    return {"machine": _machine(), "methods": methods, "broken": [asdict(fault) for fault in catalog.faults]}


def _machine() -> dict[str, str]:
    return {
        "longatlas": _version("longatlas"),
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "cpus": str(os.cpu_count()),
        **{name: _version(name) for name in MODULES},
        "cuda": _cuda(),
        "browser": next((path for name in BROWSERS if (path := shutil.which(name))), "not found"),
        "store": _store(),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    if not has_cuda():
        return "no NVIDIA driver found"
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"a driver is there, but torch cannot be loaded: {error}"
    if not torch.cuda.is_available():
        return f"a driver is there, but torch {torch.__version__} cannot use it: install a build with CUDA"
    return f"{torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"


def _store() -> str:
    try:
        from longatlas.store import Store, store_url

        url = store_url()
        if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
            return _future_store(Path(str(url.database)))
        store = Store()
        store.check_writable()
    except Exception as error:
        return f"broken: {error}"
    return f"{store.name} (writable)"


def _future_store(path: Path) -> str:
    """Nothing is made here: say whether the nearest folder that exists would let us."""
    folder = next(parent for parent in path.parents if parent.exists())
    able = "can be made there" if os.access(folder, os.W_OK) else f"broken: folder {folder} cannot be written"
    return f"{path} (not there yet; {able})"
