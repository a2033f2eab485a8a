"""`--help` of the training command: the groups, or one group's options and settings. Without a group it imports no pydantic."""

import re
import shutil
import textwrap
from collections.abc import Sequence
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import yaml

from speculators.utils.messages import no_such, stop
from speculators.utils.yaml_lines import comments

FLAGS = ("--help", "-h")
CONFIG_DIR = ("--config-dir", "-cd")
# A line of the defaults list: the group, its default, and what it chooses.
CHOICE = re.compile(r"^  - (\w+): (\w+) +# (.+)$", re.MULTILINE)
HEAD = """\
Train a speculative-decoding draft model, measure it by decoding with it, and export what vLLM serves.

  python train.py algorithm=eagle proposal=greedy

A group's option is chosen with group=option, a value is set with key=value, e.g. optimizer.lr=3e-4.
  --help GROUP=OPTION     the settings of an option, with their meaning, e.g. --help algorithm=eagle3
  --help GROUP            the same of all options of a group
  dry_run=true            check a run, print its published config and estimates, and stop
  -m key=a,b              a sweep: one trial for each value
  --cfg job               the composed values
  --info defaults         the file of each group
  --config-dir DIR        groups of your own
  --hydra-help            Hydra's own options
"""


def print_help(words: Sequence[str]) -> None:
    """Print the help that a command line asks for.

    Args:
        words: of the command line, without its name: names of groups, or group=option, for their settings.
    """
    roots = [Path(str(files("speculators.conf"))), *_roots(words)]
    groups = _groups(roots)
    values = {following for flag, following in zip(words, words[1:], strict=False) if flag in CONFIG_DIR}
    asked = [word for word in words if not word.startswith("-") and word not in values]
    names = [word for word in asked if "=" not in word or word.partition("=")[0] in groups]
    if unknown := [name for name in names if name.partition("=")[0] not in groups]:
        stop([f"--help {n}: {no_such('group', n, groups)}" for n in unknown])
    if not names:
        print(_overview(roots, groups))
    for name in names:
        group, _, option = name.partition("=")
        print(_group(roots, group, option))


def _overview(roots: Sequence[Path], groups: Sequence[str]) -> str:
    text = (roots[0] / "train.yaml").read_text(encoding="utf-8")
    choices = {group: (default, meaning) for group, default, meaning in CHOICE.findall(text)}
    lines = [HEAD, "Groups, the default option first:"]
    for group in groups:
        default, meaning = choices.get(group, ("null", ""))
        options = [o for o in _options(roots, group) if o != default]
        lines.append(
            _wrapped(f"  {group:<16}  ", f"{meaning}: " + ", ".join([default] * (default != "null") + options))
        )
    lines.append("\nSettings of the run itself:")
    said, values = comments(text), yaml.safe_load(text)
    for key, value in values.items():
        if key in said and said[key] and not isinstance(value, dict | list):
            lines += [f"  {key}={_shown(value)}", _wrapped(" " * 6, said[key])]
    return "\n".join(lines)


def _group(roots: Sequence[Path], group: str, only: str) -> str:
    """The options of a group, or one of them, with their settings."""
    from speculators.composition.describe import Option, option
    from speculators.settings.run_config import RunConfig

    options, verifier = _options(roots, group), roots[0] / "verifier" / "tiny.yaml"
    if only and only not in options:
        stop([f"--help {group}={only}: {no_such('option', only, list(options))}"])
    lines: list[str] = []
    for name, file in options.items():
        if only and name != only:
            continue
        if group not in RunConfig.model_fields:
            lines += [f"{group}={name}", *file.read_text(encoding="utf-8").splitlines()[1:], ""]
            continue
        described: Option = option(group, file, verifier)
        lines += [f"{group}={name}", _wrapped("  ", described.meaning)] if described.meaning else [f"{group}={name}"]
        for setting in described.settings:
            lines += [
                f"  {setting.key}={setting.value}   ({setting.kind.replace('`', '')})",
                _wrapped("      ", setting.meaning),
            ]
        lines.append("")
    return "\n".join(lines).rstrip()


def _groups(roots: Sequence[Path]) -> list[str]:
    """The groups of all folders of options; the package's own in the order of its defaults list."""
    own = [group for group, *_ in CHOICE.findall((roots[0] / "train.yaml").read_text(encoding="utf-8"))]
    found = (folder.name for root in roots for folder in sorted(root.iterdir()) if any(folder.glob("*.yaml")))
    return list(dict.fromkeys([*own, *found]))


def _options(roots: Sequence[Path], group: str) -> dict[str, Path]:
    """The file of each option of a group, by name."""
    return {file.stem: file for root in reversed(roots) for file in sorted((root / group).glob("*.yaml"))}


def _roots(words: Sequence[str]) -> list[Path]:
    """Folders of options that installed packages and the command line add."""
    installed = [Path(str(files(entry.value))) for entry in entry_points(group="speculators.conf")]
    typed = []
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in CONFIG_DIR:
            typed.append(Path(value if equals else "".join(words[i + 1 : i + 2])))
    return installed + [folder for folder in typed if folder.is_dir()]


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _wrapped(indent: str, text: str) -> str:
    """A text after an indent, as wide as the terminal."""
    width = max(60, shutil.get_terminal_size((120, 24)).columns)
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=" " * len(indent), break_on_hyphens=False
    )
