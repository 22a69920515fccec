"""Docstrings as Sphinx reads them: the package writes Markdown's backticks and indented examples, Sphinx reads RST."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_EXAMPLE_INDENT = 4
_SECTIONS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:")


def to_rst(lines: list[str]) -> list[str]:
    """Lines of a docstring in RST: code in double backticks, bars and stars escaped, examples as literal blocks."""
    found: list[str] = []
    in_example = in_section = False
    for index, line in enumerate(lines):
        in_section = in_section or line.strip() in _SECTIONS
        after_blank = index > 0 and not lines[index - 1].strip()
        indented = line.startswith(" " * _EXAMPLE_INDENT)
        if not in_section and indented and after_blank and not in_example:
            found += ["::", ""]
            in_example = True
        elif line.strip() and not indented:
            in_example = False
        found.append(line if in_example else _escaped(line))
    return found


def _escaped(line: str) -> str:
    """A line outside examples, its code kept and the marks of RST in its words escaped."""
    parts = _CODE.split(line)
    words = (re.sub(r"([|*\\]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2])
    code = (f"``{part}``" for part in parts[1::2])
    return "".join(piece for pair in zip(words, [*code, ""], strict=True) for piece in pair)


def _on_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = to_rst(lines)
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(": ", " \u2013 ", 1)  # napoleon would read the words before a colon as a type


def _on_signature(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Arrays under the name that the code gives them."""

    def named(text: str | None) -> str | None:
        return text and text.replace("jaxlib._jax.Array", "Array").replace("numpy.ndarray", "np.ndarray")

    return named(signature), named(returned)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects the conversion, before napoleon reads sections; Sphinx calls it."""
    app.connect("autodoc-process-docstring", _on_docstring, priority=100)
    app.connect("autodoc-process-signature", _on_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
