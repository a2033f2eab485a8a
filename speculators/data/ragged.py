"""Lists of uneven length as two tensors: all values one after the other, and the lengths."""

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain, pairwise
from typing import TypeVar

import torch
from torch import Tensor

LENGTHS = ".lengths"
T = TypeVar("T")


def flat(name: str, lists: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """`name`, int32 values, and `name.lengths`, int64."""
    values = torch.tensor(list(chain.from_iterable(lists)), dtype=torch.int32)
    return {name: values, name + LENGTHS: torch.tensor([len(values) for values in lists], dtype=torch.int64)}


def cut(values: Sequence[T], lengths: Sequence[int]) -> list[Sequence[T]]:
    """Split values into pieces of the given lengths, which sum to the whole."""
    return [values[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]


def lists(tensors: Mapping[str, Tensor], name: str) -> list[list[int]]:
    """The lists that `flat` stored under `name`."""
    return [list(values) for values in cut(tensors[name].tolist(), tensors[name + LENGTHS].tolist())]
