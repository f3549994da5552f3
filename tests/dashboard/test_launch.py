"""The launcher: safety flags, ports, addresses, stores, and a server that ends without a trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from longatlas.cli import dashboard
from longatlas.errors import LongAtlasError
from longatlas.store import Store
from longatlas_dashboard import launch


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder), "PYTHONUNBUFFERED": "1"}


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longatlas", "dashboard", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment(folder))


def test_flags_keep_the_server_on_this_machine() -> None:
    command = launch.command(8501, "127.0.0.1")
    assert command[:4] == [sys.executable, "-m", "streamlit", "run"]
    for flag in (
        "--server.address=127.0.0.1",
        "--server.allowedHosts=127.0.0.1",
        "--server.allowedHosts=localhost",
        "--server.enableCORS=true",
        "--server.enableXsrfProtection=true",
        "--server.fileWatcherType=none",
        "--server.maxUploadSize=5",
        "--browser.gatherUsageStats=false",
        "--client.showErrorLinks=false",
        "--client.toolbarMode=viewer",
    ):
        assert flag in command


@pytest.mark.parametrize("address", ["0.0.0.0", "192.168.1.5", "::", "example.org"])
def test_other_addresses_need_the_flag(address: str) -> None:
    with pytest.raises(LongAtlasError, match="--allow-remote"):
        dashboard.check_address(address, allow_remote=False)
    dashboard.check_address(address, allow_remote=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_no_flag(address: str) -> None:
    dashboard.check_address(address, allow_remote=False)


def test_a_busy_port_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ended = run("--port", str(port), "--store", str(tmp_path / "s.sqlite"), folder=tmp_path)
    assert ended.returncode == 2
    assert f"port {port} on 127.0.0.1 is in use" in ended.stderr
    assert "--port" in ended.stderr


def test_a_missing_store_is_refused_when_read_only(tmp_path: Path) -> None:
    where = str(tmp_path / "none.sqlite")
    ended = run("--read-only", "--port", str(free_port()), "--store", where, folder=tmp_path)
    assert ended.returncode == 2
    assert "does not exist" in ended.stderr
    assert not Path(where).exists()


def heed_ctrl_c() -> None:
    """What a terminal does: tests that were started in the background inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    port, where = free_port(), tmp_path / "s.sqlite"
    Store(str(where))
    process = subprocess.Popen(
        [sys.executable, "-m", "longatlas", "dashboard", "--port", str(port), "--store", str(where)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(tmp_path),
        preexec_fn=heed_ctrl_c,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == f"Dashboard: http://127.0.0.1:{port}"
    yield process, port
    process.terminate()
    process.wait(15)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_server_and_leaves_no_process(
    server: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, port = server
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)
    assert process.wait(15) == 0
    assert not [child for child in family if child.is_running()]
    dashboard.check_port(port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_kill_9_leaves_no_server(server: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = server
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(family, timeout=15)[1] == []


def test_a_foreign_host_is_refused(server: tuple[subprocess.Popen[str], int]) -> None:
    _, port = server
    assert handshake(port, "127.0.0.1") == 101
    assert handshake(port, "rebound.example") == 403


def handshake(port: int, host: str) -> int:
    """Status of the websocket's opening with a Host header."""
    lines = (
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(connection.recv(64).split()[1])


def test_the_log_is_a_file(server: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    _, port = server
    logs = list(tmp_path.rglob(f"dashboard-{port}.log"))
    assert len(logs) == 1
