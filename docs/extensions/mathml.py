"""Formulas as MathML, which browsers draw themselves: no script and no font is loaded."""

from __future__ import annotations

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


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
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as e:
        raise ExtensionError(f"{node.source}: formula {node.astext()!r}: {e}") from e
