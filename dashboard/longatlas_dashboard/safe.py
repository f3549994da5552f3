"""Text from elsewhere (plugins, rows, addresses) as pages may show it: never markup, never longer than a page."""

from __future__ import annotations

import re
from collections.abc import Iterable

# ASCII punctuation means something in Markdown; a backslash before it makes it a plain character.
_PUNCTUATION = re.compile(r"([!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~])")
# What Markdown makes a link of even where it is escaped; an invisible joiner breaks it up.
_AUTOLINK = re.compile(r"(?i)\b(https?|www|ftp|mailto)(?=[:.])|(?=@)")
_JOINER = "\u2060"
# Longer text (a URL, a plugin's title) is cut: a page is read, not filled.
LINE, PARAGRAPH = 160, 1200
# Characters that turn the direction of all that follows, words of ours too.
_TURNS = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)])


def cut(text: str, most: int = LINE) -> str:
    """`text` on one line of at most `most` characters, in the direction of its letters."""
    one_line = " ".join(str(text).translate(_TURNS).split())
    return one_line if len(one_line) <= most else f"{one_line[: most - 1]}…"


def plain(text: str, most: int = PARAGRAPH) -> str:
    """Text for a Markdown place (titles, labels, captions) in which nothing is markup, link or image."""
    one_line = cut(text, most)
    broken = _AUTOLINK.sub(lambda match: f"{match[0]}{_JOINER}", one_line)
    return _PUNCTUATION.sub(r"\\\1", broken)


def texts(values: Iterable[str], conjunction: str = ", ") -> str:
    """Names as inline code, joined; on one line, for a blank line would end the code and let Markdown in."""
    return conjunction.join(f"`{cut(str(value).replace('`', '')) or ' '}`" for value in values)


def web_address(url: str) -> str:
    """`url` when it is an http(s) address, else ""."""
    return url if re.match(r"https?://[^\s<>\"]+$", url) else ""


def whole_number(text: str) -> int | None:
    """The number a URL parameter or a typed text stands for, in ASCII digits; None for anything else."""
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,15}", text) else None
