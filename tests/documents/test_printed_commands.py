"""Every command of a fenced block in the documents is one that the command line takes."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from typer.main import get_command

from speculators.cli.main import app
from speculators.composition.compose import composed

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OURS = ("python train.py ", "speculators ")


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of this project in a page, without the comment after it and what follows a redirection."""
    for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ")
            if line.startswith(OURS):
                words = shlex.split(line, comments=True)
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


FOUND = [(page.name, words) for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]


def test_commands_are_found() -> None:
    """In the README and elsewhere."""
    assert len(FOUND) > 20 and len({page for page, _ in FOUND}) > 4
    block = "```\n$ speculators check 'A B' x=1   # why\npip install x\npython train.py a=1 > file\n```\n"
    assert list(commands(block)) == [["speculators", "check", "A B", "x=1"], ["python", "train.py", "a=1"]]


@pytest.mark.parametrize(("page", "words"), FOUND, ids=[f"{page}: {' '.join(words)[:60]}" for page, words in FOUND])
def test_a_command_is_taken(page: str, words: list[str]) -> None:
    """Groups, options and keys of overrides are there, and so are subcommands and their options."""
    runs = words[1] in ("train.py", "train") or words[1] == "check" and all("=" in word for word in words[2:])
    if runs:
        overrides = words[2:]
    else:
        command = get_command(app)
        for name in words[1:]:
            commands = getattr(command, "commands", None)
            if commands is None:
                break
            assert name in commands, f"{page}: {name}"
            command = commands[name]
        known = {option for parameter in command.params for option in parameter.opts} | {"-h", "--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known
        return
    flags = {"-m", "--multirun", "--help", "--cfg", "job", "--info", "defaults"}
    if "--help" in overrides or "--config-dir" in overrides:
        return
    # The README's example of a misspelt key, and names that stand for the reader's own.
    left_out = {"algorithm.ttt_step=3", "proposal=NAME", "algorithm=NAME"}
    with composed(one_trial([word for word in overrides if word not in flags | left_out])):
        pass
