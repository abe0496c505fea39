"""HTML and SVG as trees: every text and value is escaped when the tree is written, none before.

The standard library's ElementTree writes HTML; what can be seen by nobody (controls, directions)
is made visible on its way in.
"""

from __future__ import annotations

from xml.etree import ElementTree

from aegis_tools.control.files import printable

Element = ElementTree.Element
_LONGEST_TEXT, _LONGEST_ATTRIBUTE = 2000, 1 << 20
"""An attribute may be the whole shape of a line."""


def make(tag: str, text: object = "", **attributes: object) -> Element:
    """Return an element.

    Args:
        tag: Its name.
        text: What it holds, as text.
        attributes: By name, without a trailing ``_`` and with ``-`` for ``_``: ``class_``,
            ``aria_label``. What is None is left out.
    """
    found = Element(tag, {
        name.rstrip("_").replace("_", "-"): clean(value, _LONGEST_ATTRIBUTE)
        for name, value in attributes.items()
        if value is not None
    })  # fmt: skip
    found.text = clean(text) or None
    return found


def add(parent: Element, tag: str, text: object = "", **attributes: object) -> Element:
    """Append an element as ``make`` makes it, and return it."""
    found = make(tag, text, **attributes)
    parent.append(found)
    return found


def say(parent: Element, text: object) -> None:
    """Append text after the last child."""
    if len(parent):
        last = parent[-1]
        last.tail = (last.tail or "") + clean(text)
    else:
        parent.text = (parent.text or "") + clean(text)


def clean(value: object, longest: int = _LONGEST_TEXT) -> str:
    """Return a value as text in which everything can be seen."""
    return printable(str(value), longest)


def html(root: Element) -> str:
    """Return a whole document."""
    return f"<!doctype html>\n{ElementTree.tostring(root, 'unicode', method='html')}\n"


def xml(root: Element) -> str:
    """Return a picture as a file of its own."""
    return ElementTree.tostring(root, "unicode")
