"""The code blocks of the pages, and the commands in those for a shell."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt


ROOT = Path(__file__).resolve().parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]


class Block(NamedTuple):
    """
    A code block.

    Args:
        page: the page's path in the repository.
        line: number of its first line of code.
        language: the word after the fence; "" without one, and for indented code.
        text: the code.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        """Where it is, as compilers write it."""
        return f"{self.page}:{self.line}"


def read_blocks(page: str) -> list[Block]:
    """Returns the blocks of a page, from top to bottom."""
    tokens = MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))
    return [
        Block(page, token.map[0] + 1 + (token.type == "fence"), token.info.strip(), token.content)
        for token in tokens
        if token.type in ("fence", "code_block")
    ]


def read_commands(text: str) -> list[list[str]]:
    """Returns the words of each command of a shell, without comments, and without variables that are set for it."""
    commands = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        words = shlex.split(line, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        if odd := {"|", ">", "&&", ";", "<", "&"} & set(words):
            raise ValueError(f"{line.strip()!r} has {odd.pop()!r}: write one command a line.")
        if words:
            commands.append(words)
    return commands
