"""The tensors of a published folder: names, shapes and places in its files, and their values block by block. Torch-free."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speculators.utils.untrusted import inside, parse_json, read_json

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Of a file's header, and of an index: some 10,000 tensors.
MOST_BYTES = 2**20
MOST_DIMENSIONS = 8
BLOCK_BYTES = 2**23
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
# BF16 as its bits: numpy has no such dtype.
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "BOOL": "?"}
BF16_EXPONENT = 0x7F80  # all ones in NaN and infinity


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a safetensors file.

    Attributes:
        file: that it is in.
        shape: its sizes.
        dtype: safetensors' name of it, such as BF16.
        begin, end: bytes of the file that it takes.
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str
    begin: int
    end: int

    def bytes(self) -> Iterator[bytes]:
        """What the file holds of it, at most BLOCK_BYTES at once."""
        if self.begin == self.end:
            return
        with self.file.open("rb") as stream:
            stream.seek(self.begin)
            for start in range(self.begin, self.end, BLOCK_BYTES):
                yield stream.read(min(BLOCK_BYTES, self.end - start))

    def blocks(self) -> Iterator[np.ndarray]:
        """Its values in the order of the file, at most BLOCK_BYTES at once; BF16 as its bits.

        Raises:
            ValueError: its dtype is none of NUMPY's.
        """
        if self.dtype not in NUMPY:
            raise ValueError(f"{self.file}: values of dtype {self.dtype} cannot be read")
        return (np.frombuffer(block, NUMPY[self.dtype]) for block in self.bytes())

    def values(self) -> np.ndarray:
        """All its values, flat; for small tensors."""
        return np.concatenate([np.empty(0, NUMPY[self.dtype]), *self.blocks()])

    def same(self, other: "StoredTensor") -> bool:
        """Whether another tensor has the same shape, dtype and values."""
        if (self.shape, self.dtype) != (other.shape, other.dtype):
            return False
        if self.begin == other.begin and self.file.samefile(other.file):
            return True
        return all(a == b for a, b in zip(self.bytes(), other.bytes(), strict=True))

    def is_finite(self) -> bool:
        """Whether no value of a floating tensor is NaN or infinite."""
        if self.dtype == "BF16":
            return all(((block & BF16_EXPONENT) != BF16_EXPONENT).all() for block in self.blocks())
        return all(np.isfinite(block).all() for block in self.blocks())


Tensors = Mapping[str, StoredTensor]


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """All tensors of a published folder, from `model.safetensors` or from the files that its index names.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: a file is broken, or leads out of the folder; the message names it.
    """
    if (folder / WHOLE).exists():
        return read_header(inside(folder, WHOLE))
    if not (folder / INDEX).exists():
        raise FileNotFoundError(f"{folder}: has neither {WHOLE} nor {INDEX}")
    index = inside(folder, INDEX)
    names = read_json(index, MOST_BYTES).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(file, str) for file in names.values()):
        raise ValueError(f"{index}: weight_map must name a file for each tensor")
    found: dict[str, StoredTensor] = {}
    for file in sorted(set(names.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"{index}: {file!r} is not the name of a safetensors file in the same folder")
        held = read_header(inside(folder, file))
        if held.keys() != (listed := {name for name, other in names.items() if other == file}):
            odd = sorted(held.keys() ^ listed)[0]
            raise ValueError(f"{index}: {file} and the index differ in {odd!r}; copy or export the folder again")
        found |= held
    return found


def read_header(file: Path) -> dict[str, StoredTensor]:
    """All tensors of a safetensors file, without reading one.

    Raises:
        ValueError: it is none, it was cut off, or its header is larger than MOST_BYTES; the message names it.
    """
    try:
        if not file.is_file():
            raise ValueError("there is no such file")
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or not 0 < length <= size - 8:
                raise ValueError("its header is truncated")
            if length > MOST_BYTES:
                raise ValueError(f"its header of {length} bytes is larger than {MOST_BYTES}")
            header = parse_json(stream.read(length))
        metadata = header.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("the values of __metadata__ must be strings")
        found = {name: _stored(file, name, spec, 8 + length) for name, spec in header.items()}
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read as safetensors: {error}; copy or export it again") from error
    end = 8 + length
    for name, tensor in sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            raise ValueError(
                f"{file}: cannot be read as safetensors: {name!r} does not begin where the tensor before it ends; "
                "copy or export it again"
            )
        end = tensor.end
    if end != size:
        reason = f"it has {size} bytes where its header needs {end}; copy or export it again"
        raise ValueError(f"{file}: cannot be read as safetensors: {reason}")
    return found


def _stored(file: Path, name: str, spec: Any, offset: int) -> StoredTensor:
    """An entry of a header."""
    if not isinstance(spec, dict) or spec.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} must have dtype, shape and data_offsets")
    dtype, shape, places = spec["dtype"], spec["shape"], spec["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"{name!r} has no known dtype: {json.dumps(dtype)[:80]}")
    if not _sizes(shape) or not _sizes(places) or len(places) != 2:
        raise ValueError(f"shape and data_offsets of {name!r} must be short lists of sizes")
    begin, end = places
    if (end - begin) * 8 != math.prod(shape) * BITS[dtype]:
        raise ValueError(f"{name!r} takes {end - begin} bytes, which does not match its shape and dtype")
    return StoredTensor(file, tuple(shape), dtype, offset + begin, offset + end)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= MOST_DIMENSIONS and all(_is_size(size) for size in value)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48  # true is an int
