"""Every command in the documents is one that its program takes: composed, parsed or dry-run; none of them is started."""

import argparse
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from typer.core import TyperGroup
from typer.main import get_command

from speculators.cli.main import app
from speculators.composition.compose import composed

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = r"(?:python (?:train\.py|tools/|benchmarks/)|speculators |make |pytest\b|pip install )"
# Hydra's flags, and overrides of the README's misspelt key and of names that stand for the reader's own.
LEFT_OUT = {"-m", "--cfg", "job", "algorithm.ttt_step=3", "proposal=NAME", "algorithm=NAME"}
# Overrides that `speculators evaluate` reads itself.
COMPARED = ("proposals=", "evaluation.speculative_tokens=", "output=")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a page, in fenced blocks and in code spans; comments and redirections are left out.

    A block with a line that starts with `$` is a session, in which only such lines are commands.
    """
    fenced = r"^```(\w*)\n(.*?)^```"
    for language, block in re.findall(fenced, text, re.DOTALL | re.MULTILINE):
        if language not in ("", "bash", "sh"):
            continue
        lines = block.replace("\\\n", " ").splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        yield from words_of(line for line in typed if re.match(OURS, line))
    spans = re.findall(r"`([^`\n]+)`", re.sub(fenced, "", text, flags=re.DOTALL | re.MULTILINE))
    yield from words_of(span for span in spans if re.match(r"(?:python (?:tools|benchmarks)/|make |pytest )", span))


def words_of(lines: Iterator[str]) -> Iterator[list[str]]:
    for line in lines:
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            yield words[: words.index(">")] if ">" in words else words


def one_trial(overrides: list[str]) -> list[str]:
    """The overrides of a sweep's first trial; those of Hydra's own groups may need packages that are not installed."""
    found = []
    for override in OverridesParser.create().parse_overrides([o for o in overrides if not o.startswith("hydra/")]):
        value = override.value()
        if isinstance(value, IntervalSweep):
            found.append(f"{override.get_key_element()}={value.start}")
        elif override.is_sweep_override():
            found.append(f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}")
        elif not override.key_or_group.startswith(("hydra.sweeper", "hydra.launcher")):
            found.append(override.input_line or "")
    return found


def composes(overrides: list[str]) -> None:
    """Groups, options and keys are there."""
    if "--help" not in overrides and "--config-dir" not in overrides:
        with composed(one_trial([word for word in overrides if word not in LEFT_OUT])):
            pass


def check_speculators(words: list[str]) -> None:
    """Typer parses it, and its overrides compose."""
    if words[0] == "train":
        return composes(words[1:])
    command = get_command(app)
    while isinstance(command, TyperGroup):
        command, words = command.commands[words[0]], words[1:]
    given = command.make_context(command.name, list(words)).params
    others = next((given[name] for name in ("overrides", "arguments", "rights") if given.get(name)), ())
    path = [f"data.path={word}" for word in others[:1] if command.name == "data" and "=" not in word]
    composes(
        [*(["data=jsonl", *path] if path else []), *(w for w in others if "=" in w and not w.startswith(COMPARED))]
    )


class _Parsed(Exception):
    """The arguments were read; the script is not to go on."""


def check_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own parser takes the arguments; a script without one reads as many of `sys.argv` as there are."""
    script, source = ROOT / words[0], (ROOT / words[0]).read_text(encoding="utf-8")
    if "argparse" not in source:
        assert len(words) == len(set(re.findall(r"sys\.argv\[(\d)\]", source))) + 1
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_alone(parser: argparse.ArgumentParser, *_: object) -> None:
        parse(parser, words[1:])
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_alone)
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])
    with pytest.raises(_Parsed):
        runpy.run_path(str(script), run_name="__main__")


def check_pytest(words: list[str]) -> None:
    """The files are there, and the names after -k, of tests or of their cases, are in them."""
    parser = argparse.ArgumentParser()
    for option in ("-m", "-k"):
        parser.add_argument(option, default="")
    parser.add_argument("-s", action="store_true")
    parser.add_argument("files", nargs="*", type=Path)
    given = parser.parse_args(words)
    assert set(given.m.split()) <= {"slow", "long", "or", "not"}
    sources = [(ROOT / file).read_text(encoding="utf-8") for file in given.files]
    for word in set(given.k.split()) - {"and", "or", "not", "NAME"}:
        assert any(word in source for source in sources), word


def check_pip(words: list[str]) -> None:
    """The file of versions and the extras are there."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert words[words.index("-c") + 1] == "constraints.txt"
    assert {extra for word in words for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")} <= set(
        extras
    )


FOUND = {shlex.join(words): page.name for page in PAGES for words in commands(page.read_text(encoding="utf-8"))}


def test_commands_are_found() -> None:
    """In the README and elsewhere, of every program."""
    assert len(FOUND) > 60 and len(set(FOUND.values())) > 10
    assert {command.split()[0] for command in FOUND} == {"python", "speculators", "make", "pytest", "pip"}
    session, other = "```\n$ speculators check 'A B' x=1   # why\nmake it\n```\n", "```json\n{}\n```\n"
    block = session + "`make that`\n" + other + "```\npython train.py \\\n a=1 > file\n```\n"
    expected = [["speculators", "check", "A B", "x=1"], ["python", "train.py", "a=1"], ["make", "that"]]
    assert list(commands(block)) == expected


@pytest.mark.parametrize("command", FOUND, ids=[f"{page}: {command[:60]}" for command, page in FOUND.items()])
def test_a_command_is_taken(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the program that it starts."""
    match shlex.split(command):
        case ["python", "train.py", *overrides]:
            composes(overrides)
        case ["python", *words]:
            check_script(words, monkeypatch)
        case ["speculators", *words]:
            check_speculators(words)
        case ["make", *words]:
            subprocess.run(["make", "-n", *words], cwd=ROOT, check=True, capture_output=True)
        case ["pytest", *words]:
            check_pytest(words)
        case ["pip", "install", *words]:
            check_pip(words)


@pytest.mark.parametrize(
    "command",
    ["python train.py algorithm.nope=1", "python benchmarks/plan.py --nope", "python tools/settings_page.py more",
     "speculators report", "speculators run RUN --nope", "speculators data FILE verifier=nope", "make nope",
     "pytest tests/nope.py", "pytest tests/run/test_run.py -k no_such_test",
     "pip install -c constraints.txt '.[nope]'"],
)  # fmt: skip
def test_a_wrong_command_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each program and kind of error."""
    with pytest.raises((Exception, SystemExit)):
        test_a_command_is_taken(command, monkeypatch)
