"""What identifies a verifier."""

import os
import tracemalloc
from pathlib import Path

import huggingface_hub.constants
import pytest

from speculators.utils import digest
from speculators.verifier.identity import sampled, whole, without_weights

A, B = "a" * 40, "b" * 40


def test_on_the_hub_it_is_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Branch, tag and commit are one name if they are one commit, here as the Hub's cache has them on disk."""
    repository = tmp_path / "models--some--model"
    for revision, commit in (("main", A), ("v2", B)):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "config.json").write_text("{}")
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert whole("some/model", None) == without_weights("some/model", A) == f"commit:{A}"
    assert whole("some/model", "v2") == f"commit:{B}"
    assert sampled("some/model", "v2") == f"commit {B}"


def test_in_a_folder_it_is_the_files(tmp_path: Path) -> None:
    """Names and bytes; the weights only where they matter."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    verifier = str(tmp_path), None
    every, some, text = whole(*verifier), sampled(*verifier), without_weights(*verifier)
    (tmp_path / "model.safetensors").write_text("other weights")
    assert without_weights(*verifier) == text and whole(*verifier) != every and sampled(*verifier) != some
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")
    assert without_weights(*verifier) != text


def test_weights_of_a_strange_size_are_sampled_alone(tmp_path: Path) -> None:
    """A header that claims to be the whole of a large file is not read whole, and a pipe is no file of weights."""
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\xff" * 7)
    os.truncate(weights, 10**9)
    os.mkfifo(tmp_path / "pipe.safetensors")
    tracemalloc.start()
    try:
        sampled(str(tmp_path), None)
        assert tracemalloc.get_traced_memory()[1] < 3e8
    finally:
        tracemalloc.stop()


def test_a_file_is_read_once_while_it_does_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts of a run ask for the identity of a verifier of many GB."""
    reads: list[str] = []
    monkeypatch.setattr(digest, "of_file", lambda path: reads.append(path.name) or str(len(reads)))
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    for _ in range(3):
        whole(str(tmp_path), None)
    (tmp_path / "model.safetensors").write_text("other weights")
    whole(str(tmp_path), None)
    assert sorted(reads) == ["config.json", "model.safetensors", "model.safetensors"]
