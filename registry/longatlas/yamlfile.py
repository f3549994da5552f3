"""YAML whose mistakes are reported with file, line and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from longatlas.errors import LongAtlasError, unknown_name

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Entry:
    """A mapping of a YAML file that knows its lines. Every key must be taken before `finish`.

    `where` names the entry in errors: "taxonomy.yaml, line 12: families.local".
    """

    def __init__(self, node: yaml.Node, file: str, path: str = "") -> None:
        self._node = node
        self._file = file
        self._path = path
        if not isinstance(node, yaml.MappingNode):
            raise self.error("must be a mapping (key: value)")
        self._values: dict[str, yaml.Node] = {}
        self._keys: dict[str, yaml.Node] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self.error("has a list or a mapping as a key; keys are text", key)
            if key.value in self._values:
                raise self.error(f"has the key '{key.value}' twice", key)
            self._values[key.value] = value
            self._keys[key.value] = key
        self._taken: set[str] = set()

    def error(self, text: str, node: yaml.Node | None = None) -> LongAtlasError:
        """An error about this entry, or about `node` in it."""
        line = (node or self._node).start_mark.line + 1
        return LongAtlasError(f"{self._file}, line {line}: {self._path or 'the file'} {text}")

    def key_error(self, key: str, text: str, item: int | None = None) -> LongAtlasError:
        """An error about the value of `key`, or about one item of it."""
        node = self._values.get(key)
        if item is not None and isinstance(node, yaml.SequenceNode):
            node = node.value[item]
        line = (node or self._node).start_mark.line + 1
        return LongAtlasError(f"{self._file}, line {line}: {self._name(key)} {text}")

    def has(self, key: str) -> bool:
        return key in self._values

    @property
    def names(self) -> list[str]:
        """The keys, in the file's order."""
        return list(self._values)

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """The scalar or list under `key`, of type `kind` (`object` = any); without a default the key is required."""
        node = self._take(key, default is ...)
        if node is None:
            return default
        try:
            value = _construct(node)
        except (yaml.YAMLError, ValueError) as error:
            raise self.key_error(key, f"cannot be read: {str(error).splitlines()[0]}") from None
        kinds = kind if isinstance(kind, tuple) else (kind,)
        if kind is not object and type(value) not in kinds:
            words = " or ".join(k.__name__ for k in kinds)
            raise self.key_error(key, f"is {value!r}; expected {words}")
        if value == "":
            raise self.key_error(key, "is empty; expected text")
        return value

    def entry(self, key: str) -> Entry:
        """The mapping under `key`."""
        node = self._take(key, True)
        assert node is not None
        return Entry(node, self._file, self._name(key))

    def entries(self, key: str) -> list[Entry]:
        """The list of mappings under `key`; [] when it is absent."""
        node = self._take(key, False)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.key_error(key, "must be a list")
        return [Entry(item, self._file, f"{self._name(key)}[{i}]") for i, item in enumerate(node.value)]

    def finish(self, known: Iterable[str] = ()) -> None:
        """Raise for the first key that nobody took, with a suggestion."""
        for key in self._values:
            if key not in self._taken:
                line = self._keys[key].start_mark.line + 1
                what = f"key of {self._path}" if self._path else "key"
                error = unknown_name(what, key, self._taken | set(known))
                raise LongAtlasError(f"{self._file}, line {line}: {error}")

    def _take(self, key: str, required: bool) -> yaml.Node | None:
        self._taken.add(key)
        if key not in self._values and required:
            near = difflib.get_close_matches(key, self._values, n=1, cutoff=0.7)
            hint = f" instead of '{near[0]}'" if near else ""
            raise self.error(f"lacks the key '{key}'; expected it here{hint}")
        return self._values.get(key)

    def _name(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else key


def read(path: Path) -> Entry:
    """Open a YAML file whose top level is a mapping. Raises LongAtlasError when it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise LongAtlasError(f"cannot read {path}: {error.strerror}; give the path of a YAML file") from None
    except UnicodeDecodeError:
        raise LongAtlasError(f"cannot read {path}: it is not UTF-8 text; give the path of a YAML file") from None
    return parse(text, path.name)


def parse(text: str, file: str) -> Entry:
    """Read YAML text; `file` names it in errors."""
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise LongAtlasError(f"{file}{line}: not valid YAML: {problem}") from None
    if node is None:
        raise LongAtlasError(f"{file}, line 1: the file is empty; expected a mapping (key: value)")
    _check_ends(node, file, set(), set())
    return Entry(node, file)


def _check_ends(node: yaml.Node, file: str, above: set[int], done: set[int]) -> None:
    """Refuse an alias to something that it is a part of."""
    if id(node) in done or isinstance(node, yaml.ScalarNode):
        return
    if id(node) in above:
        line = node.start_mark.line + 1
        raise LongAtlasError(f"{file}, line {line}: contains itself by an alias (*name); write it out instead")
    parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    for part in parts:
        _check_ends(part, file, above | {id(node)}, done)
    done.add(id(node))


def _construct(node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        return node.value
    return yaml.SafeLoader("").construct_object(node, deep=True)
