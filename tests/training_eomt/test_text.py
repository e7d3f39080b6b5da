"""What others wrote is shown as it is written, and does nothing else."""

import re
from html import unescape

import pytest
from markdown_it import MarkdownIt

from training_eomt.text import markdown_text, terminal_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a cat", "a cat"),
        ("Fußgänger, 猫, 🐈, no\u00a0break", "Fußgänger, 猫, 🐈, no\u00a0break"),
        ("C:\\data", "C:\\data"),
        ("two\nlines\r\n", "two\\nlines\\r\\n"),
        ("\x1b[31mred\x07\x9b0m", "\\x1b[31mred\\x07\\x9b0m"),
        ("\x1b]8;;http://x\x1b\\link", "\\x1b]8;;http://x\\x1b\\link"),
        ("txt.\u202egnp", "txt.\\u202egnp"),
        ("\u2066a\u2069 \u200b\ufeff\u2028", "\\u2066a\\u2069 \\u200b\\ufeff\\u2028"),
        ("caf\udce9.png", "caf\\udce9.png"),
        (7, "7"),
    ],
)
def test_terminals_show_what_is_not_printable(text, shown):
    assert terminal_text(text) == shown
    terminal_text(text).encode("utf-8")


HOSTILE = [
    "a|b",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<https://example.org>",
    "<!-- hidden",
    "[click](https://example.org)",
    "[click][1]",
    "![picture](https://example.org/a.png)",
    "https://example.org",
    "www.example.org",
    "someone@example.org",
    "`code`",
    "``` fence",
    "~~~ fence",
    "~~gone~~",
    "**bold** _slanted_ __strong__ *",
    "$$x^2$$",
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "1) item",
    "---",
    "===",
    "> quote",
    "&lt; &amp; &#124;",
    "back\\slash \\| \\",
    "traffic_light (left)",
    "a-b + c = 1.5",
    ":--",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_text_as_it_is_written(text):
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    assert markdown.render(markdown_text(text)) == markdown.render("x").replace("x", _as_html(text))
    # (the two cells of a table, and nothing besides)
    table = markdown.render(f"| Name | Value |\n|---|---|\n| {markdown_text(text)} | 1 |")
    assert re.findall(r"<t[hd]>(.*)</t[hd]>", table) == ["Name", "Value", _as_html(text), "1"]


def _as_html(text):
    return re.sub("[&<>]", lambda match: {"&": "&amp;", "<": "&lt;", ">": "&gt;"}[match[0]], text)


@pytest.mark.parametrize("text", ["https://example.org", "HTTP://a.b", "www.example.org", "me@example.org"])
def test_no_address_is_left_that_becomes_a_link_by_itself(text):
    assert not re.search(r"(?i)https?:|www\.|@", markdown_text(text))
    assert unescape(markdown_text(text)) == text


def test_markdown_text_is_one_line():
    assert markdown_text(" a\n\n| b |\t\u2028c \x1b[0m") == "a \\| b \\| c \\\\x1b\\[0m"


def test_plain_names_are_left_alone():
    names = [
        "cat",
        "traffic light",
        "traffic_light",
        "wall-other-merged",
        "it's (new)",
        "0.8, 0.8",
        "-1",
        "Größe, 猫",
        "a/b: c",
    ]
    assert [markdown_text(name) for name in names] == names
