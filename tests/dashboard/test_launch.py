"""The launcher: safety flags, ports, addresses, stores, and a server that ends without a trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pace
import psutil
import pytest

from longatlas.errors import LongAtlasError
from longatlas.store import Store
from longatlas_dashboard import launch
from longatlas_dashboard.commands import dashboard


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder), "PYTHONUNBUFFERED": "1"}


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "longatlas", "dashboard", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=pace.seconds(60), env=environment(folder))


def test_flags_keep_the_server_on_this_machine() -> None:
    command = launch.arguments(8501, "127.0.0.1")
    assert command[0] == "run"
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


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("127.0.0.1", ["127.0.0.1", "localhost"]),
        ("127.0.0.2", ["127.0.0.1", "localhost", "127.0.0.2"]),
        ("0:0:0:0:0:0:0:1", ["127.0.0.1", "localhost", "::1"]),
        ("0.0.0.0", ["127.0.0.1", "localhost"]),
        ("::", ["127.0.0.1", "localhost"]),
    ],
)
def test_a_browser_may_ask_for_the_address_itself(address: str, hosts: list[str]) -> None:
    flag = "--server.allowedHosts="
    given = [part.removeprefix(flag) for part in launch.arguments(1, address) if part.startswith(flag)]
    assert given == hosts


EVIL = """
[server]
corsAllowedOrigins = ["http://evil.example"]
enableCORS = false
[client]
allowedOrigins = ["http://evil.example"]
[theme]
font = "evil"
[[theme.fontFaces]]
family = "evil"
url = "http://evil.example/font.woff2"
"""
OPTIONS = """
from streamlit import config
print(config.get_option("theme.font"), config.get_option("theme.fontFaces"), config.get_option("secrets.files"))
"""


def evil_places(folder: Path) -> tuple[Path, dict[str, str]]:
    """A working folder and an environment whose home and variables all loosen Streamlit."""
    here = folder / "here"
    for place in (folder, here):
        (place / ".streamlit").mkdir(parents=True)
        (place / ".streamlit" / "config.toml").write_text(EVIL)
    return here, {**environment(folder), "STREAMLIT_SERVER_CORS_ALLOWED_ORIGINS": "http://evil.example"}


def test_config_files_and_variables_of_streamlit_set_nothing(tmp_path: Path) -> None:
    here, env = evil_places(tmp_path)
    kept = "from longatlas_dashboard import launch; launch.keep_to_flags()\n" + OPTIONS
    found, without = (
        subprocess.run([sys.executable, "-c", code], cwd=here, env=env, capture_output=True, text=True, check=True)
        for code in (kept, OPTIONS)
    )
    assert found.stdout == "None None []\n"
    assert without.stdout.startswith("evil [{"), "the test's own file is one that Streamlit reads"


def test_a_config_file_lets_no_other_origin_in(tmp_path: Path) -> None:
    here, env = evil_places(tmp_path)
    with running(tmp_path, env=env, cwd=here) as (_, port):
        assert handshake(port, "127.0.0.1", origin=f"http://127.0.0.1:{port}") == 101
        assert handshake(port, "127.0.0.1", origin="http://evil.example") == 403
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/host-config", timeout=pace.seconds(10)) as answer:
            assert "evil.example" not in answer.read().decode()


@pytest.mark.parametrize("address", ["127.0.0.2", "::1"])
def test_another_address_of_this_machine_answers_under_its_own_name(tmp_path: Path, address: str) -> None:
    name = f"[{address}]" if ":" in address else address
    try:
        dashboard.check_port(free_port(), address)
    except LongAtlasError as error:
        pytest.skip(f"this machine has no such address: {error}")
    with running(tmp_path, "--address", address, name=name) as (_, port):
        assert handshake(port, name, at=address, origin=f"http://{name}:{port}") == 101
        assert handshake(port, "rebound.example", at=address) == 403


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


@contextmanager
def running(
    folder: Path,
    *arguments: str,
    name: str = "127.0.0.1",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A dashboard with an empty store, and its port; `name` is the host of the address that it announces."""
    port, where = free_port(), folder / "s.sqlite"
    Store(str(where))
    process = subprocess.Popen(
        [sys.executable, "-m", "longatlas", "dashboard", "--port", str(port), "--store", str(where), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=env or environment(folder),
        cwd=cwd,
        preexec_fn=heed_ctrl_c,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline().strip() == f"Dashboard: http://{name}:{port}"
        yield process, port
    finally:
        process.terminate()
        process.wait(pace.seconds(15))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    with running(tmp_path) as started:
        yield started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_server_and_leaves_no_process(
    server: tuple[subprocess.Popen[str], int], number: signal.Signals
) -> None:
    process, port = server
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)
    assert process.wait(pace.seconds(15)) == 0
    assert not [child for child in family if child.is_running()]
    dashboard.check_port(port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_kill_9_leaves_no_server(server: tuple[subprocess.Popen[str], int]) -> None:
    process, _ = server
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert psutil.wait_procs(family, timeout=pace.seconds(15))[1] == []


def test_a_foreign_host_is_refused(server: tuple[subprocess.Popen[str], int]) -> None:
    _, port = server
    assert handshake(port, "127.0.0.1") == 101
    assert handshake(port, "rebound.example") == 403


def handshake(port: int, host: str, *, at: str = "127.0.0.1", origin: str = "") -> int:
    """Status of the websocket's opening at an address, with a Host header and an Origin."""
    lines = (
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host}:{port}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *([f"Origin: {origin}"] if origin else []),
    )
    with socket.create_connection((at, port), timeout=pace.seconds(10)) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        return int(connection.recv(64).split()[1])


def test_the_log_is_a_file(server: tuple[subprocess.Popen[str], int], tmp_path: Path) -> None:
    _, port = server
    logs = list(tmp_path.rglob(f"dashboard-{port}.log"))
    assert len(logs) == 1
