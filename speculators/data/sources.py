"""Reads the rows of a source: JSON lines, also compressed, parquet, or a Hub data set. One row in memory at a time."""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import config as datasets_config
from datasets import load_dataset
from huggingface_hub import HfApi

from speculators.data.files import content_of, files_of, key_of, sources_of
from speculators.data.unused import Unused
from speculators.settings.data import DataSettings, Place
from speculators.utils import digest
from speculators.utils.hub import offline_unless_reachable
from speculators.utils.untrusted import MOST_LINE, parse_value

# Columns that are read from a parquet file; others are ignored.
COLUMNS = ("messages", "conversations", "prompt", "completion", "tools", "finish_reason")
ROWS_AT_ONCE = 256
UNREADABLE = (
    *(OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException),
    # In a parquet column: text that is not UTF-8, a date out of range, lists in lists.
    *(ValueError, OverflowError, RecursionError),
)
# Hashes of rows that this process has computed, by the fingerprint of the loaded data set.
_hashed: dict[str, str] = {}


class Unreachable(ValueError):
    """A data set of the Hub that is not on this disk, while the Hub cannot be reached."""


def rows(source: Place, key: str, unused: Unused) -> Iterator[tuple[str, Any]]:
    """The rows of a source, each with its place; a line that is not JSON is counted.

    Args:
        source: files, or a data set of the Hub.
        key: config key of the source, to which messages append `.path` and `.name`.
        unused: counts lines that cannot be read.

    Raises:
        ValueError: it is missing or broken; the message names it.
    """
    if source.path is None:
        found = from_hub(source, key)
        with _hub(source, key):
            for i, row in enumerate(found):
                yield f"{source.name}[{i}]", row
        return
    for file in files_of(source.path, key):
        try:
            yield from _parquet(file) if file.suffix == ".parquet" else _lines(file, unused)
        except UNREADABLE as error:
            raise ValueError(f"{key}.path: {file} cannot be read ({type(error).__name__}: {error})") from error


def from_hub(source: Place, key: str) -> Any:
    """Load the data set, from the disk cache of `datasets` or streamed from the Hub.

    Raises:
        ValueError: it cannot be loaded.
    """
    assert source.name is not None, "this source is files, not a data set of the Hub"
    options = {"split": source.split, "revision": source.revision, "streaming": source.streaming}
    if not Path(source.name).is_dir():
        offline_unless_reachable()
        datasets_config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE  # read when datasets was imported
    with _hub(source, key):
        return load_dataset(source.name, source.subset, **options)


def content(source: Place, key: str) -> str:
    """An identifier of the current content of a source.

    Raises:
        ValueError: it is missing.
    """
    if source.path is not None:
        return content_of(files_of(source.path, key))
    assert source.name is not None, "a source must have a path or a name"
    if not source.streaming:
        return _rows_content(from_hub(source, key))
    if (folder := Path(source.name)).is_dir():
        return content_of(sorted(f for f in folder.rglob("*") if f.is_file()))
    with _hub(source, key):
        return f"commit {HfApi().dataset_info(source.name, revision=source.revision).sha}"


def data_content(data: DataSettings) -> str:
    """An identifier of the current content of all sources of data settings.

    Raises:
        ValueError: one is missing.
    """
    found = [content(source, key_of(data, number)) for number, source in enumerate(sources_of(data))]
    return found[0] if len(found) == 1 else digest.of_parts(map(str.encode, found))


def _rows_content(loaded: Any) -> str:
    """A hash of a loaded data set's rows, which is the same on every machine, unlike the fingerprint of `datasets`."""
    if loaded._fingerprint not in _hashed:
        rows = (json.dumps(row, sort_keys=True, default=str).encode() for row in loaded)
        _hashed[loaded._fingerprint] = digest.of_parts(rows)
    return _hashed[loaded._fingerprint]


@contextmanager
def _hub(source: Place, key: str) -> Iterator[None]:
    """Convert any error of datasets to a ValueError: it raises some twenty types of its own and of its file systems."""
    try:
        yield
    except Exception as error:
        kind = Unreachable if isinstance(error, ConnectionError) else ValueError
        raise kind(f"{key}.name: {source.name} cannot be loaded ({type(error).__name__}: {error})") from error


def _lines(file: Path, unused: Unused) -> Iterator[tuple[str, Any]]:
    with _opened(file) as lines:
        for number, line in enumerate(_bounded(lines), start=1):
            place = f"{file}:{number}"
            if line is None:
                unused.add(f"longer than {MOST_LINE >> 20} MiB", place)
                continue
            # Some editors begin a file with a byte-order mark.
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            try:
                yield place, parse_value(text.decode())
            except UnicodeDecodeError:
                unused.add("that are not UTF-8", place)
            except ValueError:
                unused.add("that are not JSON", place)


def _bounded(lines: IO[bytes]) -> Iterator[bytes | None]:
    """Lines of a file; None for one that is longer than MOST_LINE, which is not kept in memory."""
    while line := lines.readline(MOST_LINE):
        ended = line.endswith(b"\n") or len(line) < MOST_LINE
        yield line if ended else None
        while not ended:
            rest = lines.readline(MOST_LINE)
            ended = rest.endswith(b"\n") or len(rest) < MOST_LINE


def _opened(file: Path) -> IO[bytes]:
    match file.suffix:
        case ".gz":
            return cast(IO[bytes], gzip.open(file))
        case ".bz2":
            return cast(IO[bytes], bz2.open(file))
        case ".xz":
            return cast(IO[bytes], lzma.open(file))
        case ".zst":
            return io.BufferedReader(pa.input_stream(file, compression="zstd"))
    return file.open("rb")


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    with pq.ParquetFile(file) as table:
        columns = [name for name in table.schema_arrow.names if name in COLUMNS]
        number = 0
        for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
            for row in batch.to_pylist():
                yield f"{file}[{number}]", row
                number += 1
