"""Text that others wrote, such as names of classes, files and datasets, made safe to show."""

import re
import unicodedata


# At the beginning of a line these make a heading, a list, a rule or an underline.
_BLOCK_START = re.compile(r"^(\d*)([-+=.)])(?=[-=\s]|$)")
# Emphasis, code, links, HTML, tables, strikethrough and formulas; an underscore within a word is only itself.
_MARKUP = re.compile(r"[\\`*\[\]|~#$]|(?<![^\W_])_|_(?![^\W_])")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}
# Addresses that become links without markup.
_LINK_START = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(:)|\b(www)(\.)")


def terminal_text(text: object) -> str:
    """
    Returns text on one line, for terminals and logs: unprintable characters are replaced by Python's escape sequences.

    Unprintable are line breaks and tabs, control characters, with which terminals' escape sequences begin, marks that
    change the direction of writing, invisible characters and undecodable bytes of file names. Backslashes stay.
    """
    return "".join(character if _is_visible(character) else _escape(character) for character in str(text))


def markdown_text(text: object) -> str:
    """
    Returns text for Markdown, table cells included, that shows as it is written: no markup, HTML or link in it works.

    Consecutive spaces and line breaks become one space; other unprintable characters are escaped as in
    [`terminal_text`].
    """
    shown = terminal_text(" ".join(str(text).split()))
    shown = _MARKUP.sub(r"\\\g<0>", shown)
    shown = _BLOCK_START.sub(r"\1\\\2", shown)
    shown = re.sub("[&<>@]", lambda match: _ENTITIES[match[0]], shown)
    return _LINK_START.sub(_break_link, shown)


def _is_visible(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # a space of some width


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _break_link(match: re.Match[str]) -> str:
    word, separator = match[1] or match[3], match[2] or match[4]
    return f"{word}&#{ord(separator)};"


__all__ = ["markdown_text", "terminal_text"]
