"""Strict, the base class of settings, and shared bounded types. Torch-free."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    """Settings that refuse unknown keys and other types, NaN and infinity, and cannot be changed afterwards."""

    # Strict: true is not 1, "3" and 3.0 are not 3; an integer is a float.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
