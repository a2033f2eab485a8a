"""A process that computes the states of the tests' sequences: worker.py VERIFIER STORE SECONDS_A_SEQUENCE."""

import sys
import time
from pathlib import Path

import torch

from speculators.cache.store import Store
from speculators.data.cached_states import cached_states
from speculators.verifier.in_process import Verifier
from tests.cache.conftest import Loaded, sequences, settings


class Slow(Verifier):
    """Takes its time."""

    def __call__(self, batch, layer_ids):
        time.sleep(float(sys.argv[3]))
        return super().__call__(batch, layer_ids)


if __name__ == "__main__":
    chosen = settings(Path(sys.argv[1]))
    slow = Slow.load(chosen, torch.device("cpu"))
    with cached_states(Store(Path(sys.argv[2]), None), Loaded(chosen, slow), sequences(), [1, 2]):
        pass
