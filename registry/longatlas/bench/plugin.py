"""The pytest plugin: options, and the hooks that only do something when longatlas.bench is run.

It is loaded in every pytest run of an environment, so nothing heavy is imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from longatlas.bench.options import option, options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from longatlas.bench.session import BenchSession

_SESSION = pytest.StashKey["BenchSession"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--longatlas-...`; the longatlas.bench suite reads them."""
    group = parser.getgroup("longatlas", "longatlas.bench: comparisons of long-context methods")
    for name, text in options().items():
        group.addoption(f"--longatlas-{name}", default=None, metavar=name.upper(), help=text.replace("%", "%%"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Check the options before anything is collected, so that a wrong one is a usage error (exit code 4)."""
    config = session.config
    named = any("longatlas.bench" in str(argument) for argument in config.args)
    if named or any(option(config, name) is not None for name in options()):
        session_of(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per cell."""
    if "longatlas_cell" not in metafunc.fixturenames:
        return
    cells = session_of(metafunc.config).timed
    from longatlas.bench.records import name_of

    names = [name_of(cell).removeprefix("longatlas::") for cell in cells]
    metafunc.parametrize("longatlas_cell", cells, ids=[name.replace("::", "-") for name in names])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Only what was not deselected is measured."""
    found = session.config.stash.get(_SESSION, None)
    if found is not None:
        parameters = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
        found.select(values["longatlas_cell"] for values in parameters if "longatlas_cell" in values)


def session_of(config: pytest.Config) -> BenchSession:
    """The measuring session of a pytest run, made when the first test of the suite is collected."""
    if _SESSION not in config.stash:
        from longatlas.bench.session import open_session

        config.stash[_SESSION] = open_session(config)
    return config.stash[_SESSION]


@pytest.fixture(scope="session")
def longatlas_session(request: pytest.FixtureRequest) -> Iterator[BenchSession]:
    """Measures the cells of the suite; its workers end with the tests."""
    session = session_of(request.config)
    yield session
    session.stop()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where `--longatlas-fail` says so."""
    found = session.config.stash.get(_SESSION, None)
    if found is None or session.config.option.collectonly or session.exitstatus != pytest.ExitCode.OK:
        return
    if found.is_worse():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """longatlas's own section: every status, and the difference from the baseline."""
    found = config.stash.get(_SESSION, None)
    if found is not None and not config.option.collectonly:
        from longatlas.bench.report import write

        write(terminalreporter, found)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the workers when no test did."""
    found = config.stash.get(_SESSION, None)
    if found is not None:
        found.stop()
