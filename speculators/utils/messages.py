"""Error messages about a run, with config key, value and provenance. Imports no torch, Hydra or pydantic."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NoReturn

from speculators.utils.resources import remedy
from speculators.utils.secrets import displayed
from speculators.utils.untrusted import shortened

if TYPE_CHECKING:
    from pydantic import ValidationError

# Provenance of a key's value, e.g. `conf/recipe/x.yaml:6`; None if it is unknown.
Blame = Callable[[str], str | None]
# The provenance of a recipe's value.
RECIPE = re.compile(r"(?:^|/)recipe/[^/]+:\d+$")


class WrongInput(Exception):
    """Invalid input, found before anything is run; each message names a key, its value and the remedy."""

    def __init__(self, messages: Sequence[str]) -> None:
        super().__init__("\n".join(messages))
        self.messages = list(messages)


class RunFailed(Exception):
    """A run failed after its start; the reason is printed and written to FAILED in its folder."""


def stop(messages: Sequence[str]) -> NoReturn:
    """Print the problems and exit with 2."""
    problems = "1 problem" if len(messages) == 1 else f"{len(messages)} problems"
    shown = (f"  {displayed(message)}" for message in messages)
    print(f"{problems}; nothing was started:", *shown, sep="\n", file=sys.stderr)
    sys.exit(2)


def refused(error: OSError) -> NoReturn:
    """Print what the operating system refused, with the remedy, and exit with 1; an error without one is raised."""
    if (advice := remedy(error)) is None:
        raise error
    print(displayed(f"{error.strerror}: {error.filename or ''}\n  {advice}"), file=sys.stderr)
    sys.exit(1)


def broken_yaml(error: Exception, file: object = "") -> str:
    """Format a PyYAML error as one line.

    Args:
        error: what PyYAML raised.
        file: the file that it read, if the error does not name it.
    """
    return f"{file}{': ' if file else ''}invalid YAML: {' '.join(str(error).split())}"


def nearest(word: str, words: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The word that is most similar to `word`; None if none is.

    Args:
        word: misspelled.
        words: the valid ones.
        cutoff: least similarity, from 0 to 1.
    """
    return next(iter(get_close_matches(word, list(words), n=1, cutoff=cutoff)), None)


def did_you_mean(word: str, words: Iterable[str], cutoff: float = 0.5) -> str:
    """`; did you mean X?`, or nothing if no word is similar; arguments as of `nearest`."""
    close = nearest(word, words, cutoff)
    return f"; did you mean {close}?" if close else ""


def no_such(kind: str, word: str, words: Sequence[str]) -> str:
    """The reason for a word that is not one of the possible ones, e.g. `there is no such option. Options: a, b`."""
    return f"there is no such {kind}{did_you_mean(word, words) or '.'} {kind.capitalize()}s: {', '.join(words)}"


def complaints(
    error: "ValidationError", composed: dict[str, Any], blame: Blame, missing_remedy: str = "its group file must set it"
) -> list[str]:
    """One message per validation error: the key, the value, what is allowed, and the provenance of the value.

    Args:
        error: of `RunConfig`.
        composed: what was validated.
        blame: looks up the provenance of a key.
        missing_remedy: what to do about a missing key.
    """
    messages = []
    missing = [_key(problem["loc"], composed)[0] for problem in error.errors() if problem["type"] == "missing"]
    for problem in error.errors():
        key, siblings = _key(problem["loc"], composed)
        # A missing key may be the one that an unknown key in the same group misspells.
        prefix = key.rpartition(".")[0]
        siblings += [m.rpartition(".")[2] for m in missing if m.rpartition(".")[0] == prefix]
        # The message of a rule between the keys of a group begins with the key that breaks it.
        first = problem["msg"].removeprefix("Value error, ").split()[0].rstrip(":,")
        if isinstance(problem["input"], dict) and first in problem["input"]:
            key = f"{key}.{first}" if key else first
        source, message = blame(key), _message(key, siblings, problem, missing_remedy)
        if problem["type"] == "extra_forbidden" and RECIPE.search(source or ""):
            end, group = "" if message.endswith("?") else ".", key.partition(".")[0]
            message += (
                f"{end} If the recipe sets it for another option of {group} than the chosen one: remove it, '~{key}'"
            )
        messages.append(message + set_by(source))
    return list(dict.fromkeys(messages))


def key_of(error: Exception | str) -> str:
    """The dotted key at the beginning of an error's message, or of a message."""
    return re.split("[:=]", str(error), maxsplit=1)[0]


def set_by(source: str | None) -> str:
    """The line with the provenance that follows a message; empty if it is unknown."""
    return f"\n    set by {source}" if source else ""


def located(loc: Sequence[int | str], values: Any) -> tuple[list[int | str], Any, Any]:
    """Follow a pydantic location, without the tags that pydantic inserts for members of a union.

    Args:
        loc: of an error; its last part may be a missing key.
        values: what was validated.

    Returns:
        The keys and indices, the value there (None if it is missing), and the mapping or list that holds it.
    """
    parts: list[int | str] = []
    value, group = values, None
    for i, part in enumerate(loc):
        if isinstance(value, Mapping) and (part in value or i == len(loc) - 1):
            value, group = value.get(part), value
        elif isinstance(value, list) and isinstance(part, int):
            value, group = value[part] if part < len(value) else None, value
        else:
            continue
        parts.append(part)
    return parts, value, group


def _key(loc: Sequence[int | str], composed: Any) -> tuple[str, list[str]]:
    """The dotted config key of a pydantic location, and the other keys of its group."""
    parts, _, group = located(loc, composed)
    siblings = [str(key) for key in group if key != parts[-1]] if isinstance(group, Mapping) else []
    return ".".join(map(str, parts)), siblings


def _message(key: str, siblings: Sequence[str], problem: Any, missing_remedy: str) -> str:
    prefix, _, last = key.rpartition(".")
    match problem["type"]:
        case "extra_forbidden":
            options = [f"{prefix}.{s}" if prefix else s for s in siblings]
            return f"{key} is not a setting{did_you_mean(key, options)}"
        case "missing":
            return f"{key} is missing: {missing_remedy}"
        case "union_tag_not_found":
            tag = problem["ctx"]["discriminator"].strip("'")
            if close := nearest(tag, map(str, problem["input"])):
                return f"{key}.{close} is not a setting; did you mean {key}.{tag}?"
            return f"{key}.{tag} is missing: {missing_remedy}"
        case _:
            text = problem["msg"].removeprefix("Value error, ")
            if text.startswith(f"{last}:") or text.startswith(key):
                return text
            value = problem["input"]
            shown = "" if isinstance(value, dict) else f" (got {shortened(value)})"
            return f"{key}: {text[:1].lower()}{text[1:]}{shown}"
