"""A tiny verifier in a folder, sequences for it, and a small disk."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from speculators.data.pack import Packed
from speculators.data.template import Document
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader
from speculators.verifier.settings import VerifierSettings

VOCAB = 40


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A verifier's folder."""
    folder = tmp_path_factory.mktemp("verifier")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def verifier(folder: Path) -> Verifier:
    """The verifier, loaded as a run loads it."""
    return Verifier.load(settings(folder), torch.device("cpu"))


def settings(folder: Path, dtype: Literal["auto", "bfloat16"] = "auto") -> VerifierSettings:
    """A verifier in a folder."""
    return VerifierSettings(name_or_path=str(folder), revision=None, dtype=dtype, trust_remote_code=False)


class Loaded(VerifierLoader):
    """Gives a verifier that is loaded already, and counts how often it was asked for it."""

    def __init__(self, settings: VerifierSettings, verifier: Verifier) -> None:
        super().__init__(settings, verifier.device)
        self.verifier, self.asked = verifier, 0

    def whole(self) -> Verifier:
        self.asked += 1
        return self.verifier


def sequences(count: int = 70, seed: int = 0) -> list[Packed]:
    """Two documents each, of uneven lengths; 70 fill four shards and begin a fifth."""
    g = torch.Generator().manual_seed(seed)

    def document() -> Document:
        length = int(torch.randint(6, 14, (1,), generator=g))
        return Document(torch.randint(1, VOCAB, (length,), generator=g).tolist(), [True] * length)

    return [[document(), document()] for _ in range(count)]


@dataclass
class Disk:
    """A disk of 4 MB, and a way to fill it up."""

    folder: Path
    fill: Callable[[], None]
    clear: Callable[[], None]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A real one where this process may mount one; else whatever is written after `fill` fails as on a full disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    filler = folder / "filler"
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode == 0:

        def fill() -> None:
            with pytest.raises(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass

        yield Disk(folder, fill, lambda: filler.unlink())
        subprocess.run(["umount", str(folder)], check=True)
        return
    synced = os.fsync

    def full(descriptor: int) -> None:
        if filler.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    yield Disk(folder, lambda: filler.write_text(""), lambda: filler.unlink())
