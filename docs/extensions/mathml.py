"""Formulas as MathML, which browsers set themselves: no script is needed."""

from __future__ import annotations

from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
APPLY = "\u2061"  # invisible, after the name of a function
ACCENTS = "~\u02c9\u02c6"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def visit_inline(writer, node: nodes.math) -> None:
    """Write a formula inside a line."""
    writer.body.append(convert(node, as_block=False))
    raise nodes.SkipNode


def visit_block(writer, node: nodes.math_block) -> None:
    """Write a formula of its own."""
    writer.body.append(f'<div class="math-block">{convert(node, as_block=True)}</div>\n')
    raise nodes.SkipNode


def convert(node: nodes.Element, as_block: bool) -> str:
    """Return a formula's MathML. Raises ExtensionError for TeX that cannot be converted."""
    try:
        return mended(tex2mathml(node.astext(), as_block=as_block))
    except MathError as e:
        raise ExtensionError(f"{node.source}: formula {node.astext()!r}: {e}") from e


def mended(mathml: str) -> str:
    """Return MathML with a space in "log x", and with subscripts beside a letter with an accent, not below it."""
    ElementTree.register_namespace("", NAMESPACE)
    math = ElementTree.fromstring(mathml.replace("&ApplyFunction;", APPLY))
    for parent in list(math.iter()):
        if _name(parent) == "munderover" and _text(parent[2]) in ACCENTS:
            _move_subscript(parent)
        for i in reversed(range(len(parent))):
            if _text(parent[i]) == APPLY:
                _space(parent, i)
    return ElementTree.tostring(math, encoding="unicode", short_empty_elements=False)


def _space(parent: ElementTree.Element, i: int) -> None:
    """Insert thin spaces around the name of a function, which is before `i`, where TeX has them."""
    space = ElementTree.Element(f"{{{NAMESPACE}}}mspace", width="0.17em")
    if i + 1 < len(parent) and not _text(parent[i + 1]).startswith("("):
        parent.insert(i + 1, space)
    if i > 1 and _name(parent[i - 2]) not in ("mo", "mspace"):
        parent.insert(i - 1, space)


def _move_subscript(element: ElementTree.Element) -> None:
    """Turn <munderover> letter, subscript, accent </munderover> into a subscript of the letter with its accent."""
    letter, subscript, accent = list(element)
    accented = ElementTree.Element(f"{{{NAMESPACE}}}mover", accent="true")
    accented.extend([letter, accent])
    element.clear()
    element.tag = f"{{{NAMESPACE}}}msub"
    element.extend([accented, subscript])


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _text(element: ElementTree.Element) -> str:
    return "".join(element.itertext()).strip()
