"""Docstrings on the API pages: plain text as Markdown, for mkdocstrings (see mkdocs.yml).

The project's docstrings are free text with lines `name : what`. Here these lines become a list,
examples become code blocks, and characters that Markdown would read as markup stay as they are.
"""

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^[\w*][\w*, .()]* : ")
MARKUP = re.compile(r"([*_\[\]<])")


class Plain(griffe.Extension):
    """Rewrites the docstring of every module, class, function and attribute."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called by griffe with each object that it has read."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    """A docstring as Markdown that shows the same words."""
    return "\n\n".join(_paragraph(part) for part in re.split(r"\n\s*\n", text.strip("\n")))


def _paragraph(text: str) -> str:
    """One paragraph: an example as a code block, else its lines with `name : what` as a list."""
    if text.startswith((">>>", "    ")):
        return f"```python\n{text}\n```"
    items: list[str] = []
    in_list = False
    for line in text.splitlines():
        is_entry = ENTRY.match(line) is not None
        if is_entry and not in_list:
            items.append("")  # a list begins after a blank line
        in_list = in_list or is_entry
        items.append(("- " if is_entry else "") + _escaped(line.strip()))
    return "\n".join(items)


def _escaped(line: str) -> str:
    """A line in which everything outside of backquotes is shown as it is typed."""
    pieces = re.split(r"(`[^`]*`)", line)
    return "".join(
        piece if piece.startswith("`") else MARKUP.sub(r"\\\1", piece) for piece in pieces
    )
