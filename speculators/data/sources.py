"""Rows of a source: JSON lines, also compressed, parquet, or a data set of the Hub. One row in memory at a time."""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import load_dataset

from speculators.data.files import files_of
from speculators.data.unused import Unused
from speculators.settings.run_config import HubData

# What is read of a parquet file, whatever else stands in it.
COLUMNS = ("messages", "conversations", "prompt", "completion", "tools", "finish_reason")
ROWS_AT_ONCE = 256


def rows(path: str, unused: Unused) -> Iterator[tuple[str, Any]]:
    """The rows of all files behind a path, each with its place; a line that is no JSON is counted.

    Args:
        path: as for `files_of`.
        unused: gets lines that cannot be read.

    Raises:
        ValueError: a file is missing or broken; the message names it.
    """
    for file in files_of(path):
        try:
            yield from _parquet(file) if file.suffix == ".parquet" else _lines(file, unused)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
            raise ValueError(f"data.path: {file} cannot be read ({type(error).__name__}: {error})") from error


def hub_rows(settings: HubData) -> Iterator[tuple[str, Any]]:
    """The rows of a data set of the Hub; ValueError as for `from_hub`."""
    for i, row in enumerate(from_hub(settings)):
        yield f"{settings.name}[{i}]", row


def from_hub(settings: HubData) -> Any:
    """The data set, as `datasets` keeps it on disk.

    Raises:
        ValueError: it cannot be loaded.
    """
    try:
        return load_dataset(settings.name, settings.subset, split=settings.split, revision=settings.revision)
    except Exception as error:
        # datasets raises some twenty types of its own and of its file systems; each means the same to the user.
        raise ValueError(f"data.name: {settings.name} cannot be loaded ({type(error).__name__}: {error})") from error


def _lines(file: Path, unused: Unused) -> Iterator[tuple[str, Any]]:
    with _opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            # Some editors begin a file with a byte-order mark.
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not text.strip():
                continue
            place = f"{file}:{number}"
            try:
                yield place, json.loads(text.decode("utf-8"))
            except UnicodeDecodeError:
                unused.add("that are not UTF-8", place)
            except (ValueError, RecursionError):
                unused.add("that are not JSON", place)


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
