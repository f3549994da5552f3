"""Mistakes in YAML are reported with file, line and what was expected."""

import pytest

from longatlas import LongAtlasError, yamlfile


def read_word(text):
    return yamlfile.parse(text, "plan.yaml").get("a", str)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: the file is empty"),
        ("- a", "line 1: the file must be a mapping"),
        ("b: c\na: 1", "line 2: a is 1; expected str"),
        ("b: c\na:", "line 2: a is None; expected str"),
        ("a: ''", "line 1: a is empty"),
        ("a: x\nb: y\na: z", "line 3: the file has the key 'a' twice"),
        ("b: x", "line 1: the file lacks the key 'a'"),
        ("a: [1", "not valid YAML"),
        ("a: x\n---\na: y", "line 2: not valid YAML"),
        ("a: *nothing", "line 1: not valid YAML: found undefined alias"),
        ("b: c\n? [a]\n: x", "line 2: the file has a list or a mapping as a key"),
        ("a: &x\n  b: *x", "contains itself by an alias"),
        ("b: c\na: 2023-99-99", "line 2: a cannot be read: month must be in 1..12"),
        ("a: !!python/object:os.system x", "line 1: a cannot be read"),
        ("a: \0", "not valid YAML"),
    ],
)
def test_mistakes_have_file_and_line(text, words):
    with pytest.raises(LongAtlasError) as error:
        read_word(text)
    assert str(error.value).startswith("plan.yaml")
    assert words in str(error.value)


def test_a_key_that_nobody_reads_gets_a_suggestion():
    entry = yamlfile.parse("a: x\nlenghts: y\n", "plan.yaml")
    entry.get("a", str)
    with pytest.raises(LongAtlasError, match=r"plan.yaml, line 2: unknown key 'lenghts'; did you mean 'lengths'"):
        entry.finish(["lengths"])


def test_a_missing_key_points_at_the_one_that_was_misspelt():
    with pytest.raises(LongAtlasError, match="lacks the key 'summary'; expected it here instead of 'sumary'"):
        yamlfile.parse("sumary: x", "f").get("summary", str)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(LongAtlasError, match=r"cannot read .*missing.yaml: No such file"):
        yamlfile.read(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(LongAtlasError, match="not UTF-8"):
        yamlfile.read(tmp_path / "latin.yaml")


def test_an_alias_that_ends_is_fine():
    entry = yamlfile.parse("x: &w word\na: *w", "f")
    assert entry.get("a", str) == "word"
