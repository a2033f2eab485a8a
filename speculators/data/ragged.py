"""Lists of uneven length as two tensors: all values one after the other, and the lengths."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import overload

import torch
from torch import Tensor

LENGTHS = ".lengths"


def flat(name: str, lists: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    """`name`, int32 values, and `name.lengths`, int64."""
    values = torch.tensor(list(chain.from_iterable(lists)), dtype=torch.int32)
    return {name: values, name + LENGTHS: torch.tensor([len(values) for values in lists], dtype=torch.int64)}


class Lists(Sequence[list[int]]):
    """The lists that `flat` stored, each read when it is asked for.

    Args:
        tensors: may be mapped from a file.
        name: under which they are stored.
    """

    def __init__(self, tensors: Mapping[str, Tensor], name: str) -> None:
        self._values = tensors[name]
        self._starts = [0, *tensors[name + LENGTHS].cumsum(0).tolist()]

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, at: int) -> list[int]: ...
    @overload
    def __getitem__(self, at: slice) -> list[list[int]]: ...
    def __getitem__(self, at: int | slice) -> list[int] | list[list[int]]:
        if isinstance(at, slice):
            return [self[i] for i in range(len(self))[at]]
        at = range(len(self))[at]
        return self._values[self._starts[at] : self._starts[at + 1]].tolist()
