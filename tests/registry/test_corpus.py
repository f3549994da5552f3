"""The corpus: what it holds out, and paths that are no text."""

from __future__ import annotations

from pathlib import Path

import pytest

from longatlas import LongAtlasError
from longatlas.tasks.corpus import MAX_BYTES, MIN_BYTES, corpus_digest, load_corpus


def lines(count: int, tag: str = "") -> bytes:
    """Text in which no line comes twice."""
    return b"".join(f"{tag} line {i:06d}\n".encode() for i in range(count))


def test_default_is_the_standard_library() -> None:
    corpus = load_corpus()
    assert corpus.name == "Python standard library"
    assert len(corpus.train) > 2 << 20
    assert len(corpus.held_out) > 100 << 10
    parts = [text.split(b"\n\n\n") for text in (corpus.train, corpus.held_out)]
    long = [{part for part in texts if len(part) > 500} for texts in parts]
    assert len(long[0] & long[1]) < 0.01 * len(long[1])


def test_file_holds_out_its_end(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(lines(4000))
    corpus = load_corpus(str(file))
    assert corpus.train + corpus.held_out == lines(4000)
    assert len(corpus.held_out) == pytest.approx(0.1 * len(lines(4000)), rel=0.01)


def test_folder_holds_out_whole_files(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number:02d}.txt").write_bytes(lines(300, f"file {number}"))
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/x.txt").write_bytes(lines(300, "hidden"))
    corpus = load_corpus(str(tmp_path))
    train, held = set(corpus.train.splitlines()), set(corpus.held_out.splitlines())
    assert {line.split(b" line")[0] for line in held - {b""}} == {b"file 5", b"file 15"}
    assert not (train & held) - {b""}
    assert b"hidden" not in corpus.train
    assert b"PNG" not in corpus.train


def test_small_tenth_file_does_not_empty_what_is_held_out(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / f"{number:02d}.txt").write_bytes(b"short\n" if number == 5 else lines(400, f"file {number}"))
    corpus = load_corpus(str(tmp_path))
    assert len(corpus.held_out) > 0.09 * len(corpus.train + corpus.held_out)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    for name, tag in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_bytes(lines(4000, tag))
    digests = [corpus_digest(str(tmp_path / name)) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


def test_at_most_eight_mebibytes_even_inside_a_character(tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_bytes("a€".encode() * (MAX_BYTES // 4 + 10))
    corpus = load_corpus(str(file))
    assert len(corpus.train) + len(corpus.held_out) == MAX_BYTES
    shifted = tmp_path / "shifted.txt"
    shifted.write_bytes(b"b" + file.read_bytes())
    assert load_corpus(str(shifted)).train[:2] == b"ba"


def _make(folder: Path, what: str) -> Path:
    place = folder / what
    if what == "folder":
        place.mkdir()
        (place / "x.bin").write_bytes(b"\0\1\2")
        (place / "empty.txt").touch()
    elif what != "missing":
        content = {
            "empty": b"",
            "binary": b"text\0" * 9999,
            "latin": b"caf\xe9 " * 9999,
            "short": b"x" * (MIN_BYTES - 1),
        }
        place.write_bytes(content[what])
    return place


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing", "does not exist; give a file or a folder of text"),
        ("empty", "is empty; give a file"),
        ("binary", "is binary, not UTF-8 text; give"),
        ("latin", "is binary, not UTF-8 text; give"),
        ("short", f"has {MIN_BYTES - 1} bytes of text; at least {MIN_BYTES} are needed"),
        ("folder", "holds no text file; give"),
    ],
)
def test_bad_paths(tmp_path: Path, what: str, told: str) -> None:
    place = _make(tmp_path, what)
    with pytest.raises(LongAtlasError) as caught:
        load_corpus(str(place))
    assert told in str(caught.value)
    assert str(place) in str(caught.value)
