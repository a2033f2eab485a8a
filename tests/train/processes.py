"""Trains the tests' drafts, alone or as one of several processes: `python -m tests.train.processes FOLDER SHARDING ...`."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from speculators.data.sequences import Columns, Sequences
from speculators.data.template import Document
from speculators.train.loop import train
from speculators.train.sharding import unsharded
from speculators.verifier.in_process import Verifier
from tests.train.conftest import LOSS, composed, drafted, prepared_data, tiny_llama

STEPS = 50
# Of eleven sequences: so many that now and then one process has no target, and once a whole step has none.
UNSUPERVISED = 6
EAGLE3 = {"optimizer": {"name": "muon", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "adamw_lr": 0.002}}
MEDUSA = {
    "algorithm": {
        "name": "medusa", "num_heads": 2, "num_hidden_layers": 1, "medusa_fc_bias": True, "original_lm_head": False,
        "truncated_vocab_size": None, "slot_decay": 0.8, "loss": LOSS,
    },
    "proposal": {"proposal_type": "greedy", "speculative_tokens": 2, "verifier_accept_k": 1, "accept_tolerance": 0.0},
    "speculator": {"speculators_model_type": "medusa", "speculators_config": {}},
}  # fmt: skip


class Recorded(Columns):
    """Documents that write in a file in which order they are read."""

    def __init__(self, documents: Columns, file: Path) -> None:
        super().__init__(documents.token_N, documents.supervised_N, documents.start_D)
        self._file = file

    def document(self, number: int) -> Document:
        with self._file.open("a") as file:
            file.write(f"{number}\n")
        return super().document(number)


def trained(folder: Path, sharding: str) -> dict[str, torch.Tensor]:
    """The weights after 50 steps of four sequences; goes on from what is in the folder.

    Args:
        folder: gets checkpoints of every fifteenth step, and in `read_RANK` the numbers of the documents that were read. A name
            that starts with `medusa` trains that, another one eagle3.
        sharding: how processes share the draft.
    """
    settings: dict[str, Any] = MEDUSA if folder.name.startswith("medusa") else EAGLE3
    trainer = {
        "epochs": 19,
        "max_steps": STEPS,
        "batch_size": 1,
        "sequences_per_step": 4,
        "log_every": 1,
        "save_every": 15,
    }
    run = composed(trainer=trainer | {"keep_last": 9, "eval_every": 20}, launch={"sharding": sharding}, **settings)
    folder.mkdir(exist_ok=True)
    verifier, prepared = Verifier(tiny_llama()), prepared_data(unsupervised=UNSUPERVISED)
    model, all_ = drafted(run, verifier, prepared), prepared.sequences
    recorded = Recorded(all_.documents, folder / f"read_{os.environ.get('RANK', '0')}")
    prepared = replace(prepared, sequences=Sequences(recorded, all_.order_D, all_.start_S))
    train(model, verifier, prepared, run, folder).tracking.close()
    return unsharded(model).state_dict()


if __name__ == "__main__":
    for folder, sharding in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        trained(Path(folder), sharding)
