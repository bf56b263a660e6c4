"""What `test_tidy.py` looks for in source text. Each check takes a parsed module and returns its findings."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCT = ("dist_zero_common", "dist_zero", "services", "schemas")

# Which module's results depend on when, where or how often it is asked.
IMPURE = (
    "asyncio",
    "multiprocessing",
    "os",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
    "uuid",
)
NOW = ("now", "today", "utcnow")
# What does not care in which order it is given a set's elements.
ORDERLESS = ("all", "any", "bool", "frozenset", "isinstance", "len", "max", "min", "set", "sorted")
# What does, apart from loops and comprehensions.
ORDERED = ("dict", "enumerate", "filter", "iter", "list", "map", "next", "reversed", "sum", "tuple", "zip")
SET_METHODS = ("difference", "intersection", "symmetric_difference", "union")
SET_OPERATORS = (ast.BitAnd, ast.BitOr, ast.BitXor, ast.Sub)


@dataclass(frozen=True)
class Import:
    """One imported module, by its full name; `name` is what is taken out of it, if anything."""

    module: str
    name: str | None
    line: int
    in_function: bool
    for_types_only: bool

    @property
    def top(self) -> str:
        """The package that it belongs to."""
        return self.module.partition(".")[0]


@cache
def tracked() -> tuple[Path, ...]:
    """Every file that git knows or would add, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return tuple(Path(name) for name in sorted(names) if name and (ROOT / name).is_file())


def python_files(*packages: str) -> list[Path]:
    """The Python files below these directories."""
    return [path for path in tracked() if path.suffix == ".py" and path.parts[0] in packages]


@cache
def text(path: Path) -> str:
    """A file's text; nothing for what is not text."""
    try:
        return (ROOT / path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""


@cache
def parsed(path: Path) -> ast.Module:
    """A Python file, parsed."""
    return ast.parse(text(path), str(path))


@cache
def imports(tree: ast.Module) -> list[Import]:
    """Every import of the module, wherever it stands."""
    return list(_imports(tree, in_function=False, for_types_only=False))


def _imports(node: ast.AST, *, in_function: bool, for_types_only: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, None, child.lineno, in_function, for_types_only)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0 and child.module, (
                f"line {child.lineno}: relative imports are not used here"
            )
            for alias in child.names:
                yield Import(child.module, alias.name, child.lineno, in_function, for_types_only)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            yield from _imports(
                child,
                in_function=in_function or is_function,
                for_types_only=for_types_only or is_for_types,
            )


def environment_reads(tree: ast.Module) -> list[str]:
    """Where the module touches the environment: `os.environ`, `os.getenv` and their like, however imported."""
    names = ("environ", "environb", "getenv", "getenvb", "putenv", "unsetenv")
    taken = [
        f"line {found.line}: {found.module}.{found.name or ''}"
        for found in imports(tree)
        if found.top == "dotenv" or (found.module == "os" and found.name in names)
    ]
    used = [
        f"line {node.lineno}: os.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os"
    ]
    return taken + used


def unseeded_chance(tree: ast.Module) -> list[str]:
    """Uses of the module `random` other than making a `Random` from a seed."""
    findings = [
        f"line {found.line}: from random import {found.name}"
        for found in imports(tree)
        if found.module == "random" and found.name is not None
    ]
    seeded = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) == "random.Random" and node.args:
            seeded.add(node.func)
    annotations = {child for note in _annotations(tree) for child in ast.walk(note)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "random":
            if node.attr == "Random" and (node in seeded or node in annotations):
                continue
            findings.append(f"line {node.lineno}: random.{node.attr}")
    return findings


def _annotations(tree: ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
            yield node.annotation
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns is not None:
            yield node.returns
        if isinstance(node, ast.Subscript):  # an alias of a type
            yield node.slice


def impurities(tree: ast.Module) -> list[str]:
    """What a kernel must not do: ask the clock, draw lots, wait, or depend on the order of a set or on an address."""
    findings = [
        f"line {found.line}: imports {found.top}"
        for found in imports(tree)
        if found.top in IMPURE and not found.for_types_only
    ]
    sets = _Sets(tree)
    for node in ast.walk(tree):
        findings += [f"line {getattr(node, 'lineno', 0)}: {what}" for what in _impure(node, sets)]
    return findings


def _impure(node: ast.AST, sets: _Sets) -> Iterator[str]:
    walked = node.iter if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension) else None
    if walked is not None and node not in sets.orderless and sets.is_set(walked):
        yield f"iterates over the set {ast.unparse(walked)}"
    if isinstance(node, ast.Starred) and sets.is_set(node.value):
        yield f"unpacks the set {ast.unparse(node.value)}"
    if isinstance(node, ast.Call):
        name = _called(node)
        if name == "hash":
            yield "calls hash()"
        if name.rpartition(".")[2] in NOW and name.count("."):
            yield f"asks the clock: {name}()"
        if name in ORDERED and any(sets.is_set(argument) for argument in node.args):
            yield f"gives a set to {name}()"
        if isinstance(node.func, ast.Attribute):
            if node.func.attr == "pop" and not node.args and sets.is_set(node.func.value):
                yield f"takes any element of the set {ast.unparse(node.func.value)}"
            if node.func.attr in ("join", "extend", "fromkeys") and any(map(sets.is_set, node.args)):
                yield f"gives a set to {node.func.attr}()"
    # As a key of a dictionary, an address is no more than identity.
    if isinstance(node, ast.keyword) and node.arg == "key" and ast.unparse(node.value) == "id":
        yield "orders by id()"
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE | ast.Gt | ast.GtE):
        sides = [node.left, *node.comparators]
        if any(isinstance(side, ast.Call) and _called(side) == "id" for side in sides):
            yield "orders by id()"


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


class _Sets:
    """Which expressions of a module are sets, as far as names, annotations and literals tell.

    A name counts by itself within one function, an attribute by its name in the whole module.
    """

    def __init__(self, tree: ast.Module) -> None:
        self._attributes: set[str] = set()
        self._names: dict[ast.AST, set[str]] = {}
        self._scopes: dict[ast.AST, ast.AST] = {}
        self.orderless: set[ast.AST] = set()
        self._scope(tree, tree)
        # Twice, because a set may be made of one that is named further down.
        for _ in range(2):
            for node in ast.walk(tree):
                self._learn(node)

    def _scope(self, node: ast.AST, scope: ast.AST) -> None:
        self._scopes[node] = scope
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            self._scope(child, node if is_function else scope)

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, ast.arg) and node.annotation is not None and _is_set_type(node.annotation):
            self._names.setdefault(self._scopes[node], set()).add(node.arg)
        if isinstance(node, ast.AnnAssign) and _is_set_type(node.annotation):
            self._add(node.target)
            if isinstance(node.target, ast.Name):  # perhaps a dataclass's field
                self._attributes.add(node.target.id)
        if isinstance(node, ast.Assign) and self.is_set(node.value):
            for target in node.targets:
                self._add(target)
        if isinstance(node, ast.SetComp):
            self.orderless.update(node.generators)
        if isinstance(node, ast.Call) and _called(node) in ORDERLESS:
            for argument in node.args:
                if isinstance(argument, ast.GeneratorExp | ast.ListComp):
                    self.orderless.update(argument.generators)

    def _add(self, target: ast.expr) -> None:
        if isinstance(target, ast.Name):
            self._names.setdefault(self._scopes[target], set()).add(target.id)
        if isinstance(target, ast.Attribute):
            self._attributes.add(target.attr)

    def is_set(self, node: ast.expr) -> bool:
        """Whether the expression is a set, as far as can be seen."""
        if isinstance(node, ast.Set | ast.SetComp):
            return True
        if isinstance(node, ast.Name):
            return self._is_named(node)
        if isinstance(node, ast.Attribute):
            return node.attr in self._attributes
        if isinstance(node, ast.BinOp) and isinstance(node.op, SET_OPERATORS):
            return any(self.is_set(side) or _is_keys(side) for side in (node.left, node.right))
        if isinstance(node, ast.IfExp):
            return self.is_set(node.body) or self.is_set(node.orelse)
        if isinstance(node, ast.Call):
            if _called(node) in ("set", "frozenset"):
                return True
            method = node.func
            if isinstance(method, ast.Attribute):
                on_set = self.is_set(method.value)
                return on_set and method.attr in (*SET_METHODS, "copy")
        return False

    def _is_named(self, node: ast.Name) -> bool:
        scope = self._scopes[node]
        while node.id not in self._names.get(scope, set()):
            if self._scopes[scope] is scope:
                return False
            scope = self._scopes[scope]
        return True


def _is_keys(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "keys"


def _is_set_type(annotation: ast.expr) -> bool:
    name = ast.unparse(annotation).partition("[")[0]
    return name in ("set", "frozenset", "Set", "AbstractSet", "MutableSet", "collections.abc.Set")


def interface_methods(tree: ast.Module) -> list[str]:
    """The names of methods that a `Protocol` of this module promises, and says what they promise."""
    return [
        method.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(method)
    ]


def without_docstring(tree: ast.Module, promised: Collection[str]) -> list[str]:
    """Public methods of public classes that say nothing, unless an interface of ours or a foreign class has said it."""
    return [
        f"line {method.lineno}: {node.name}.{method.name}"
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and not node.name.startswith("_")
        and not any(isinstance(base, ast.Attribute) for base in node.bases)  # as in `asyncio.BaseEventLoop`
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and not method.name.startswith("_")
        and method.name not in promised
        and ast.get_docstring(method) is None
    ]
