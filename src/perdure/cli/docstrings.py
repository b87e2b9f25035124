"""What modules and classes say of themselves, read from their docstrings without importing them."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path


@cache
def _tree(module: str) -> ast.Module:
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def docstring(place: str) -> str:
    """The docstring of "module" or of "module:name"."""
    module, _, name = place.partition(":")
    nodes = [_tree(module), *_tree(module).body]
    for node in nodes:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and getattr(node, "name", "") == name:
            return ast.get_docstring(node) or ""
    return ""


def first_sentence(place: str) -> str:
    """The first sentence of it."""
    return docstring(place).partition("\n\n")[0].replace("\n", " ").partition(". ")[0].rstrip(".")
