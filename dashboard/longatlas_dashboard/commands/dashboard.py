"""`longatlas dashboard`: starts the Streamlit app on this machine and ends it with Ctrl-C."""

from __future__ import annotations

import errno
import importlib.util
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from longatlas.errors import LongAtlasError

PACKAGE = "longatlas_dashboard"
START_SECONDS = 120.0


@click.command()
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True, help="TCP port.")
@click.option("--store", metavar="URL", help="Results and jobs: a path or a database URL.")
@click.option("--read-only", is_flag=True, help="Show results only; the Run page is hidden.")
@click.option("--address", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--allow-remote", is_flag=True, help="Listen on an address of other machines too; asks for a token.")
def dashboard(port: int, store: str | None, read_only: bool, address: str, allow_remote: bool) -> None:
    """Browse the taxonomy, run and compare methods in a browser. Ctrl-C ends it."""
    serve(port, store, read_only=read_only, address=address, allow_remote=allow_remote)


def serve(
    port: int = 8501,
    store: str | None = None,
    *,
    read_only: bool = False,
    address: str = "127.0.0.1",
    allow_remote: bool = False,
) -> None:
    """Serve the dashboard until Ctrl-C or SIGTERM.

    store         a path or a URL; None = LONGATLAS_STORE, else the user's data folder
    read_only     change nothing: no Run page
    address       where to listen; another one than 127.0.0.1 needs `allow_remote`
    allow_remote  accept other machines; a fresh token is printed and asked for

    Raises LongAtlasError when the port is busy, the address is not allowed, the store cannot be opened, or
    the server does not start.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise LongAtlasError("the dashboard needs Streamlit; run `pip install streamlit altair`")
    check_address(address, allow_remote=allow_remote)
    check_port(port, address)
    where = _check_store(store, read_only=read_only)
    token = "" if is_loopback(address) else secrets.token_urlsafe(24)
    log = log_path(port)
    environment = {
        **os.environ,
        "LONGATLAS_STORE": where,
        "LONGATLAS_DASHBOARD_READ_ONLY": "1" if read_only else "0",
        "LONGATLAS_DASHBOARD_TOKEN": token,
    }
    hosts = [] if is_loopback(address) else _own_names(address)
    code = 0
    with _server(_command(port, address, hosts), environment, log) as process:
        _wait_until_ready(process, port, address, log)
        _announce(port, address, token, log)
        code = process.wait()
    _tell_of_jobs(where)
    if code not in (0, -signal.SIGTERM, -signal.SIGINT):
        raise LongAtlasError(f"the dashboard ended with code {code}; its log is {log}{_tail(log)}")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach `address`."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def check_address(address: str, *, allow_remote: bool) -> None:
    """Refuse an address that other machines reach, unless it was asked for."""
    if not is_loopback(address) and not allow_remote:
        raise LongAtlasError(
            f"address '{address}' can be reached from other machines, and whoever reaches the dashboard can "
            "start jobs; use 127.0.0.1, or add --allow-remote, which asks every visitor for a token"
        )


def check_port(port: int, address: str = "127.0.0.1") -> None:
    """Raise LongAtlasError when `port` is no port, is taken, or may not be used."""
    if not 1 <= port <= 65535:
        raise LongAtlasError(f"port {port} does not exist; give one from 1 to 65535")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            raise LongAtlasError(_why_not(error, port, address)) from None


def _why_not(error: OSError, port: int, address: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {address} is in use, perhaps by another dashboard; choose another with "
            "`--port` (`make demo PORT=...`), or end what uses it"
        )
    if error.errno == errno.EACCES:
        return f"port {port} may not be used without administrator rights; choose one from 1024 to 65535"
    return f"cannot listen on {address}, port {port}: {error.strerror or error}; choose another --address"


def log_path(port: int) -> Path:
    """Where the server of a port writes what it prints: the user's log folder, else the temporary one."""
    from platformdirs import user_log_path

    folder = user_log_path("longatlas")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir())
    name = f"dashboard-{port}.log"
    return folder / name if os.access(folder, os.W_OK) else Path(tempfile.gettempdir()) / name


def _check_store(store: str | None, *, read_only: bool) -> str:
    """The store's URL, opened once so that what is wrong with it is said here and not in the browser."""
    from longatlas.store import Store

    opened = Store(store, read_only=read_only)
    opened.engine.dispose()
    return opened.url.render_as_string(hide_password=False)


def _command(port: int, address: str, hosts: list[str]) -> list[str]:
    extra = [part for host in hosts for part in ("--host", host)]
    return [sys.executable, "-m", PACKAGE, "--port", str(port), "--address", address, "--end-with-parent", *extra]


def _own_names(address: str) -> list[str]:
    """Names and addresses of this machine that a browser may ask for; others are refused (DNS rebinding)."""
    import psutil

    names = {socket.gethostname(), socket.getfqdn(), address}
    for found in psutil.net_if_addrs().values():
        names |= {a.address for a in found if a.family in (socket.AF_INET, socket.AF_INET6)}
    return sorted(names - {"0.0.0.0", "::"})


@contextmanager
def _server(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server process; it ends with the block, and SIGTERM ends the block."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment)
    try:
        yield process
    except KeyboardInterrupt:
        click.echo("\nThe dashboard has ended.")
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _end(process: subprocess.Popen[Any], grace: float = 5.0) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(grace)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, address: str, log: Path) -> None:
    url = f"http://{_reachable(address)}:{port}/_stcore/health"
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise LongAtlasError(f"the dashboard did not start; its log is {log}{_tail(log)}")
        try:
            with direct.open(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise LongAtlasError(f"the dashboard gave no answer within {START_SECONDS:g} s; its log is {log}{_tail(log)}")


def _tell_of_jobs(where: str) -> None:
    """Jobs are no children of the server: say that they go on, and how to stop them."""
    from longatlas.harness.jobs import ACTIVE, jobs
    from longatlas.store import Store

    active = [str(job.id) for job in jobs(Store(where, read_only=True)) if job.status in ACTIVE]
    if active:
        names = ", ".join(active)
        click.echo(f"Queued or running still: job {names}; `longatlas jobs cancel {active[0]}` ends it.")


def _reachable(address: str) -> str:
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"[{name}]" if ":" in name else name


def _announce(port: int, address: str, token: str, log: Path) -> None:
    click.echo(f"Dashboard: http://{_reachable(address)}:{port}{f'/?token={token}' if token else ''}")
    if token:
        click.echo("Other machines reach it under this machine's name; it asks them for that token.")
    click.echo(f"Ctrl-C ends it; its log is {log}")


def _tail(log: Path, lines: int = 5) -> str:
    text = log.read_text(errors="replace").strip().splitlines()[-lines:] if log.exists() else []
    return "".join(f"\n  {line}" for line in text)
