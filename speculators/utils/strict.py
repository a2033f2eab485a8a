"""Strict, the base class of settings, shared bounded types, and a reader of typed JSON files. Torch-free."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from speculators.utils.untrusted import MOST, read_json

T = TypeVar("T")

PositiveInt = Annotated[int, Field(ge=1)]
# Of processes, threads or unrolled steps, each of which takes memory.
Count = Annotated[int, Field(ge=1, le=MOST)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Settings that refuse unknown keys and other types, NaN and infinity, and cannot be changed afterwards."""

    # Strict: true is not 1, "3" and 3.0 are not 3; an integer is a float.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def read_as(file: Path, kind: type[T]) -> T:
    """Read the object in an untrusted JSON file as a dataclass; keys that it does not have are left out.

    Args:
        file: opened only if it is a regular file.
        kind: the dataclass.

    Raises:
        ValueError: it cannot be read, lacks a key, or has a value of another type; the message names the file.
    """
    try:
        return TypeAdapter(kind).validate_python(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        reason = f"it has no {key}" if first["type"] == "missing" else f"{key}: {first['msg']}"
        raise ValueError(f"{file}: {reason}") from error
