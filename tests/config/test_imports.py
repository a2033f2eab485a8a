"""Imports stand at the top of a file; only what answers a command may import late."""

import ast
from collections.abc import Iterator
from pathlib import Path

import speculators

PACKAGE = Path(speculators.__file__).parent
# A command that only prints, and the process of a sweep that only waits, import neither torch nor pydantic.
LATE = ("cli", "composition")


def inside_functions(source: str) -> Iterator[str]:
    """Each import that stands in a function of a module, a `__getattr__` of the module itself aside."""
    tree = ast.parse(source)
    lazy = {f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "__getattr__"}
    for function in (
        n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n not in lazy
    ):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_no_import_stands_in_a_function_outside_of_the_command_line() -> None:
    found = {
        str(file.relative_to(PACKAGE)): lines
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[0] not in LATE and (lines := list(inside_functions(file.read_text())))
    }
    assert found == {}


def test_an_import_in_a_function_is_found() -> None:
    """In a method of a nested class and in an async function; not at the top, not in a module's `__getattr__`."""
    source = """
import a
if a:
    import b
def __getattr__(name):
    import c
class C:
    class D:
        def f(self):
            import d
        def __getattr__(self, name):
            import e
async def g():
    from f import g
"""
    found = sorted(line.partition(": ")[2] for line in inside_functions(source))
    assert found == ["from f import g", "import d", "import e"]
