"""Text for the language model: the Python standard library's own source, or any file or folder."""

from __future__ import annotations

import hashlib
import sysconfig
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from longatlas.errors import LongAtlasError

MAX_BYTES = 8 << 20
MIN_BYTES = 32 << 10
HELD_OUT = 0.1
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", ".git", ".venv"}


@dataclass(frozen=True)
class Corpus:
    """Bytes to train on and bytes held out; `name` is for the reader."""

    name: str
    train: bytes
    held_out: bytes


def load_corpus(path: str = "") -> Corpus:
    """Read a corpus; "" is the standard library's source. At most 8 MiB are used, whole files in order of name.

    A tenth is held out: every tenth file, or the end where there are few files or those are small. Raises
    LongAtlasError for a path that is missing, empty, binary, or a folder without text, or less than 32 KiB of it.
    """
    return _load(path, _stamp(path))


def corpus_digest(path: str = "") -> str:
    """Content hash of what load_corpus would return."""
    corpus = load_corpus(path)
    return hashlib.sha256(corpus.train + b"\0" + corpus.held_out).hexdigest()[:16]


def _stamp(path: str) -> tuple[tuple[str, int, int], ...]:
    """Sizes and times of the files of a corpus that the user has given: a changed one is another corpus."""
    if not path:
        return ()
    place, stamps = Path(path).expanduser(), list[tuple[str, int, int]]()
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        with suppress(OSError):
            told = file.stat()
            stamps.append((str(file), told.st_mtime_ns, told.st_size))
    return tuple(stamps)


@lru_cache(maxsize=2)
def _load(path: str, stamp: tuple[tuple[str, int, int], ...]) -> Corpus:
    if not path:
        place = Path(sysconfig.get_paths()["stdlib"])
        return _split("Python standard library", _folder_texts(place, "*.py"), str(place))
    place = Path(path).expanduser()
    if place.is_dir():
        return _split(place.name, _folder_texts(place, "*"), path)
    if not place.is_file():
        what = "is neither a file nor a folder" if place.exists() else "does not exist"
        raise LongAtlasError(f"corpus '{path}' {what}; give a file or a folder of text")
    data = _read(place)
    if not data:
        raise LongAtlasError(f"corpus '{path}' is empty; give a file or a folder of text")
    if not _is_text(data):
        raise LongAtlasError(f"corpus '{path}' is binary, not UTF-8 text; give a file or a folder of text")
    return _split(place.name, [data], path)


def _folder_texts(folder: Path, pattern: str) -> list[bytes]:
    texts, size = [], 0
    for file in sorted(folder.rglob(pattern)):
        if not file.is_file() or _SKIPPED & set(file.relative_to(folder).parts):
            continue
        data = _read(file)
        if data and _is_text(data):
            texts.append(data)
            size += len(data)
        if size >= MAX_BYTES:
            break
    if not texts:
        raise LongAtlasError(f"corpus '{folder}' holds no text file; give a file or a folder of UTF-8 text")
    return texts


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(MAX_BYTES)
    except OSError as error:
        raise LongAtlasError(f"cannot read corpus file '{file}': {error.strerror}") from None


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        # A cut at MAX_BYTES may fall inside a character.
        return error.start >= len(data) - 3 and len(data) == MAX_BYTES
    return True


def _split(name: str, texts: list[bytes], path: str) -> Corpus:
    joined = b"\n".join(texts)
    if len(joined) < MIN_BYTES:
        raise LongAtlasError(
            f"corpus '{path}' has {len(joined)} bytes of text; at least {MIN_BYTES} are needed: give a longer one"
        )
    train = b"\n".join(text for i, text in enumerate(texts) if i % 10 != 5)
    held_out = b"\n".join(text for i, text in enumerate(texts) if i % 10 == 5)
    if len(texts) < 10 or len(held_out) < HELD_OUT / 2 * len(joined):
        cut = int(len(joined) * (1 - HELD_OUT))
        train, held_out = joined[:cut], joined[cut:]
    return Corpus(name, train, held_out)
