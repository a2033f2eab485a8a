"""An algorithm is named in its own folder alone, so that another one needs no edit elsewhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import speculators
from speculators.settings.algorithm import AlgorithmSettings

PACKAGE = Path(speculators.__file__).parent
NAMES = AlgorithmSettings.names()


def named(source: str, inside: str) -> Iterator[str]:
    """Each place of a module at which an algorithm is named: as a value, in an override, or by an import from its folder.

    Args:
        source: of the module.
        inside: the first folder of the package that it is in, and the next in `models`; an algorithm's own is no finding.
    """
    for node in ast.walk(ast.parse(source)):
        words: list[str] = []
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = [node.value, node.value.removeprefix("algorithm=")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("speculators.models"):
            # From the package, its folder; from a module of it, the folder is in the path.
            words = [*(node.module or "").split(".")[2:3], *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            words = [part for alias in node.names for part in alias.name.split(".")[2:3]]
        yield from (f"line {node.lineno}: {name}" for name in NAMES if name in words and inside != name)


def test_no_module_names_an_algorithm_of_another_folder() -> None:
    """Modules that stand beside the algorithms' folders have what two share, also vLLM's names; they import from no folder."""
    found: dict[str, list[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        path = file.relative_to(PACKAGE)
        if path.parts[0] != "models":
            lines = list(named(file.read_text(), ""))
        elif len(path.parts) > 2:
            lines = list(named(file.read_text(), path.parts[1]))
        else:
            imports = [n for n in ast.walk(ast.parse(file.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)]
            lines = [line for n in imports for line in named(ast.unparse(n), "")]
        if lines:
            found[str(path)] = lines
    assert found == {}


def test_no_option_of_another_group_names_an_algorithm() -> None:
    """A recipe and a search choose among them; conf/train.yaml has the default."""
    found = [
        f"{file.parent.name}/{file.name}: {name}"
        for file in (PACKAGE.parent / "conf").glob("*/*.yaml")
        if file.parent.name not in ("algorithm", "recipe", "search")
        for name in NAMES
        if name in file.read_text().replace(",", " ").split()
    ]
    assert found == []


def test_a_name_is_found() -> None:
    """By each of the three ways; not in the algorithm's own folder, nor as a part of another word."""
    sources = ['x = "medusa"', 'x = "algorithm=medusa"', "from speculators.models.medusa.model import A"]
    sources += ["from speculators.models import medusa", "import speculators.models.medusa.model"]
    assert [list(named(source, "eagle")) for source in sources] == [["line 1: medusa"]] * 5
    assert not any(list(named(source, "medusa")) for source in [*sources, 'x = "medusa_heads"', '"""Of medusa."""'])
