"""Streamlit's server with its safety flags, and with no other setting than those: no config file is read."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from longatlas.processes import end_with_parent
from longatlas_dashboard import theme

ENTRY = Path(__file__).with_name("app.py")
LOCAL_HOSTS = ("127.0.0.1", "localhost")
PADDING = {"STREAMLIT_THEME_PADDING_TOP": "1.5rem", "STREAMLIT_THEME_PADDING_BOTTOM": "4rem"}


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


def arguments(port: int, address: str, hosts: Sequence[str] = ()) -> list[str]:
    """What follows `streamlit` on its command line.

    hosts  names that a browser may use in its Host header besides those of this machine's own and the address
    """
    names = dict.fromkeys((*LOCAL_HOSTS, *_host_of(address), *hosts))
    options = [f"--{name.partition('#')[0]}={value}" for name, value in flags(port, address, [*names]).items()]
    return ["run", str(ENTRY), *options]


def _host_of(address: str) -> tuple[str, ...]:
    """The address as a browser writes it in its Host header; none where it stands for every address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return (address,)
    return () if found.is_unspecified else (found.compressed,)


def keep_to_flags() -> None:
    """Let nothing but flags set an option of Streamlit, and let its server ask no other machine.

    Of the user's and the working folder's .streamlit neither config.toml nor secrets.toml is read: they could let in
    other origins and hosts, or make the browser load fonts from elsewhere. A variable STREAMLIT_... counts as little.
    Streamlit asks the web for this machine's address when a page of another origin connects; here nobody is asked.

    Raises SystemExit where this Streamlit has another way to find its files.
    """
    from streamlit import config, net_util

    for place, name in ((config, "get_config_files"), (net_util, "get_external_ip")):
        if not callable(getattr(place, name, None)):
            sys.exit(
                f"this release of Streamlit has no {place.__name__}.{name}, so its config files cannot be kept out"
            )
    config.get_config_files = lambda file_name: []
    net_util.get_external_ip = lambda: None
    for name in [name for name in os.environ if name.startswith("STREAMLIT_")]:
        del os.environ[name]
    os.environ.update(PADDING)  # not flags: a Streamlit that does not know these yet would refuse them


def main(given: Sequence[str] | None = None) -> NoReturn:
    """Become the server, in this process, so that a signal reaches it without a go-between."""
    parser = argparse.ArgumentParser(prog="python -m longatlas_dashboard", description=__doc__)
    parser.add_argument("--port", type=int, default=8501)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--host", action="append", default=[], help="a host name to accept besides localhost")
    parser.add_argument("--end-with-parent", action="store_true", help="end when the parent is killed (Linux)")
    asked = parser.parse_args(given)
    if asked.end_with_parent:
        end_with_parent()
    keep_to_flags()
    from streamlit.web import cli

    sys.argv = ["streamlit", *arguments(asked.port, asked.address, asked.host)]
    cli.main(prog_name="streamlit")
    raise SystemExit
