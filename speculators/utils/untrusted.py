"""Reads untrusted files with limits on size and nesting, which bound memory and time. Torch-free.

`utils/yaml_lines.py` applies the same limits to YAML.
"""

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 2**20  # of a file of settings: configs of published models have some 10 kB
MOST_LIST_BYTES = 2**26  # of a file with an entry for each tensor or shard: some 10 MB for 100,000 of them
MOST_LINE = 2**24  # of a conversation: text of a million tokens has some 4 MB
MOST_DEPTH = 50
MOST_DIGITS = 30  # a 64-bit number has 20
MOST_NODES = 50_000  # keys, values and lists of a YAML file; a run's has some 500
# Upper bound of any size in a model's config; published models have context lengths of up to 10 million.
MOST_SIZE = 2**24
# Upper bound of layers, heads, labels or drafted tokens: more are a mistake, and objects are made for each.
MOST = 1000
SHOWN = 80  # characters of a value in a message; more would hide the reason


def read_json(file: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Read the object in a JSON file.

    Args:
        file: opened only if it is a regular file.
        most_bytes: maximum size.

    Raises:
        ValueError: it holds no JSON object, has too many or too deeply nested values, or is too large; the message names
            the file.
    """
    most_nodes = most_bytes // 20  # each takes time and some hundred bytes of memory
    try:
        contents = read_bytes(file, most_bytes)
        if contents.count(b"[") + contents.count(b"{") > most_nodes:
            raise ValueError(f"it has more than {most_nodes} lists and objects")
        return parse_json(contents)
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
        # Files of the system have other sizes than contents.
        contents = b"" if (large := file.stat().st_size > most_bytes) else stream.read(most_bytes + 1)
    if large or len(contents) > most_bytes:
        raise ValueError(f"it is larger than {most_bytes} bytes")
    return contents


def parse_json(text: bytes) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: UTF-8.

    Raises:
        ValueError: it is not one, or as for `parse_value`.
    """
    value = parse_value(text.decode())
    if not isinstance(value, dict):
        raise ValueError(f"it must hold a JSON object, not {type(value).__name__}")
    return value


def parse_value(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, is nested deeper than MOST_DEPTH, or has a number of more than MOST_DIGITS digits.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(TOO_DEEP) from error
    if text.count("[") + text.count("{") > MOST_DEPTH:  # else it cannot be too deep, which spares most lines the walk
        check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError if lists and dicts are nested deeper than MOST_DEPTH."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        level = [inner for inner in level if isinstance(inner, (dict, list))]
        if not level:
            return
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
    raise ValueError(TOO_DEEP)


def inside(folder: Path, name: str) -> Path:
    """The path of a file in an untrusted folder.

    Args:
        folder: the untrusted folder.
        name: a name from its files.

    Raises:
        ValueError: the path is outside the folder, by its name or by a link. Links within the Hub's cache are allowed.
    """
    try:
        root, path = folder.resolve(), (folder / name).resolve()
    except (OSError, RuntimeError) as error:  # of Python up to 3.12, and of later ones
        raise ValueError(f"{folder / name}: it is a link to itself") from error
    # A snapshot's files are links: models--org--name/snapshots/COMMIT/config.json -> models--org--name/blobs/HASH.
    blobs = root.parent.parent / "blobs"
    if path.is_relative_to(root) or (root.parent.name == "snapshots" and path.is_relative_to(blobs)):
        return folder / name
    raise ValueError(f"{folder / name}: the path leaves the folder; only files inside it are read")


def regular(folder: Path, name: str) -> Path:
    """The path of a file in an untrusted folder, as `inside`, which must be a regular one: others may have no end.

    Raises:
        ValueError: it is not, or is outside the folder.
    """
    file = inside(folder, name)
    if not file.is_file():
        raise ValueError(f"{file}: it is not a regular file")
    return file


def printable(text: str) -> str:
    """Escape the characters of a text that are not printable, such as terminal control characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """`printable`, but line breaks stay."""
    return "\n".join(map(printable, text.split("\n")))


def shortened(value: Any) -> str:
    """A value as Python writes it, cut to SHOWN characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MOST_DIGITS:
        raise ValueError(f"it has a number of {len(digits)} digits")
    return int(digits)


TOO_DEEP = f"it is nested deeper than {MOST_DEPTH} levels"
_DECODER = json.JSONDecoder(parse_int=_integer)
