"""Reads untrusted files with limits on size and nesting, which bound memory and time. Torch-free."""

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 2**20  # of a JSON file: configs of published models have some 10 kB
MOST_DEPTH = 50
MOST_DIGITS = 30  # a 64-bit number has 20
# Upper bound of any size in a model's config; published models have context lengths of up to 10 million.
MOST_SIZE = 2**24


def read_json(file: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Read the object in a JSON file.

    Args:
        file: opened only if it is a regular file.
        most_bytes: maximum size.

    Raises:
        ValueError: it holds no JSON object, or is too large or too deeply nested; the message names the file.
    """
    try:
        return parse_json(read_bytes(file, most_bytes))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as JSON: {error}") from error


def read_bytes(file: Path, most_bytes: int) -> bytes:
    """Read the contents of a regular file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a regular file, or is larger than `most_bytes`.
    """
    if file.exists() and not file.is_file():
        raise ValueError("it is not a regular file")
    with file.open("rb") as stream:
        contents = stream.read(most_bytes + 1)
    if len(contents) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    return contents


def parse_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: UTF-8.

    Raises:
        ValueError: it is not one, is nested deeper than MOST_DEPTH, or has a number of more than MOST_DIGITS digits.
    """
    try:
        value = json.loads(text.decode(), parse_int=_integer)
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels") from error
    if not isinstance(value, dict):
        raise ValueError(f"it must hold a JSON object, not {type(value).__name__}")
    level: list[Any] = [value]
    for _ in range(MOST_DEPTH):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, (dict, list))]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {MOST_DEPTH} levels")


def inside(folder: Path, name: str) -> Path:
    """The path of a file in an untrusted folder.

    Args:
        folder: the untrusted folder.
        name: a name from its files.

    Raises:
        ValueError: the path is outside the folder, by its name or by a link. Links within the Hub's cache are allowed.
    """
    root, path = folder.resolve(), (folder / name).resolve()
    # A snapshot's files are links: models--org--name/snapshots/COMMIT/config.json -> models--org--name/blobs/HASH.
    blobs = root.parent.parent / "blobs"
    if path.is_relative_to(root) or (root.parent.name == "snapshots" and path.is_relative_to(blobs)):
        return folder / name
    raise ValueError(f"{folder / name}: the path leaves the folder; only files inside it are read")


def printable(text: str) -> str:
    """Escape the characters of a text that are not printable, such as terminal control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)
