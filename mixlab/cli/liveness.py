"""Which statements of a notebook other statements need: names read and written, and a slice backwards."""

from __future__ import annotations

import ast
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SHOWS = {"then"}  # methods that change nothing


@dataclass(frozen=True)
class Statement:
    """A statement at the top of a cell.

    Attributes:
        source: Its text.
        tree: What it parses to.
        reads: The names that it reads.
        writes: The names that it binds or may change.
        binds: Those of them that it binds whatever happens, so that nothing before matters to them.
    """

    source: str
    tree: ast.stmt
    reads: frozenset[str]
    writes: frozenset[str]
    binds: frozenset[str]

    @classmethod
    def parse(cls, source: str) -> Statement:
        """Reads one statement.

        >>> one = Statement.parse("total[0] = sum(x * y for x in numbers)")
        >>> sorted(one.reads), sorted(one.writes), sorted(one.binds)
        (['numbers', 'sum', 'total', 'y'], ['total'], [])

        Raises:
            SyntaxError: If it is not Python.
            ValueError: If it is not one statement.
        """
        (tree,) = ast.parse(source).body
        names = list(_symbols(symtable.symtable(source, "<cell>", "exec")))
        bound = frozenset(name for name, is_written in names if is_written)
        changed = frozenset(_changed(tree))
        reads = frozenset(name for name, is_written in names if not is_written) | changed
        return cls(source, tree, reads, bound | changed, frozenset(_bound(tree)) - changed)


def statements(source: str) -> list[Statement]:
    """Returns the statements of a cell, without the comments between them.

    Raises:
        SyntaxError: If it is not Python.
    """
    lines = source.splitlines()
    return [
        Statement.parse("\n".join(lines[one.lineno - 1 : one.end_lineno]))
        for one in ast.parse(source).body
        if one.end_lineno is not None
    ]


def needed(cell: Sequence[Statement], live: set[str], *, always: Sequence[Statement] = ()) -> list[Statement]:
    """Returns the statements of a cell that write what is read later, in order.

    Args:
        cell: The statements.
        live: The names that are read after the cell; becomes those that are read from its first statement on.
        always: Statements of the cell that stay in any case.
    """
    kept = []
    for one in reversed(cell):
        if one in always or one.writes & live:
            kept.append(one)
            live.difference_update(one.binds)
            live.update(one.reads)
    return kept[::-1]


def _symbols(table: symtable.SymbolTable) -> Iterator[tuple[str, bool]]:
    """Yields (name, whether it is written) of a module, and what its functions and comprehensions read of it."""
    for symbol in table.get_symbols():
        if table.get_type() == "module":
            if symbol.is_assigned() or symbol.is_imported():
                yield symbol.get_name(), True
            if symbol.is_referenced():
                yield symbol.get_name(), False
        elif symbol.is_global():
            yield symbol.get_name(), False
    for child in table.get_children():
        yield from _symbols(child)


def _bound(tree: ast.stmt) -> Iterator[str]:
    """Yields the names that a statement binds whatever happens."""
    if isinstance(tree, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in tree.names)
    targets = tree.targets if isinstance(tree, ast.Assign) else []
    if isinstance(tree, ast.AnnAssign) and tree.value is not None:
        targets = [tree.target]
    for node in (node for target in targets for node in ast.walk(target)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _changed(tree: ast.stmt) -> Iterator[str]:
    """Yields the names whose values a statement may change: x += 1, (x := 1), x[0] = 1, x.y = 1, x.append(1)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AugAssign | ast.NamedExpr):
            yield from _base(node.target)
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield from _base(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            method = node.value.func
            if isinstance(method, ast.Attribute) and method.attr not in _SHOWS:
                yield from _base(method)


def _base(node: ast.expr) -> Iterator[str]:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    if isinstance(node, ast.Name):
        yield node.id
