"""The Streamlit command with its safety flags; a user's own config file cannot loosen what is a flag."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from longatlas_dashboard import theme

ENTRY = Path(__file__).with_name("app.py")
PR_SET_PDEATHSIG = 1
LOCAL_HOSTS = ("127.0.0.1", "localhost")


def flags(port: int, address: str, hosts: Sequence[str]) -> dict[str, str]:
    """Streamlit options by name. `hosts` are the names a browser may use in its Host header."""
    return {
        "server.port": str(port),
        "server.address": address,
        "server.headless": "true",
        "server.enableCORS": "true",
        "server.enableXsrfProtection": "true",
        "server.fileWatcherType": "none",
        "server.runOnSave": "false",
        "server.maxUploadSize": "5",
        "server.enableStaticServing": "false",
        "server.showEmailPrompt": "false",
        "server.baseUrlPath": "",
        "browser.gatherUsageStats": "false",
        "client.showErrorDetails": "none",
        "client.showErrorLinks": "false",
        "client.toolbarMode": "viewer",
        "logger.hideWelcomeMessage": "true",
        "global.developmentMode": "false",
        **theme.streamlit_options(),
    } | {f"server.allowedHosts#{place}": host for place, host in enumerate(hosts)}


def command(port: int, address: str, hosts: Sequence[str] = LOCAL_HOSTS) -> list[str]:
    """The argument list that starts the server."""
    options = [f"--{name.partition('#')[0]}={value}" for name, value in flags(port, address, hosts).items()]
    return [sys.executable, "-m", "streamlit", "run", str(ENTRY), *options]


def end_with_parent() -> None:
    """Ask Linux for SIGTERM when the parent dies, even by kill -9; it outlasts the exec. Elsewhere: nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def main(arguments: Sequence[str] | None = None) -> None:
    """Become the server: this process is replaced, so that a signal reaches it without a go-between."""
    parser = argparse.ArgumentParser(prog="python -m longatlas_dashboard", description=__doc__)
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--host", action="append", default=[], help="a host name to accept besides localhost")
    parser.add_argument("--end-with-parent", action="store_true", help="end when the parent is killed (Linux)")
    given = parser.parse_args(arguments)
    if given.end_with_parent:
        end_with_parent()
    # Not flags: a Streamlit that does not know these yet would refuse them.
    os.environ |= {"STREAMLIT_THEME_PADDING_TOP": "1.5rem", "STREAMLIT_THEME_PADDING_BOTTOM": "4rem"}
    argv = command(given.port, given.address, (*LOCAL_HOSTS, *given.host))
    os.execv(argv[0], argv)
