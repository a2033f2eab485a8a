"""What names a verifier's content."""

from pathlib import Path

import huggingface_hub.constants
import pytest

from speculators.verifier.location import content, local_path

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
    assert content("some/model", None, weights=True) == content("some/model", A, weights=False) == f"commit:{A}"
    assert content("some/model", "v2", weights=True) == f"commit:{B}"


def test_in_a_folder_it_is_the_files(tmp_path: Path) -> None:
    """Names and bytes; the weights only where they matter."""
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_text(name)
    with_weights, without = (content(str(tmp_path), None, weights) for weights in (True, False))
    (tmp_path / "model.safetensors").write_text("other")
    assert content(str(tmp_path), None, weights=False) == without
    assert content(str(tmp_path), None, weights=True) != with_weights
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")
    assert content(str(tmp_path), None, weights=False) != without


@pytest.mark.parametrize("name", ["evil", "evil.inside", "speculators_evil", "evil:x", "", "."])
def test_no_other_package_is_imported_for_its_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it would run its code, and the name may come from a run.yaml of anybody."""
    for package in ("evil", "evil/inside", "speculators_evil"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FileNotFoundError, match="is neither a package of speculators nor one that adds to it"):
        local_path(f"pkg://{name}/tiny")
    assert not (tmp_path / "executed").exists()
    assert Path(local_path("pkg://speculators.assets/tiny")).is_dir()
    with pytest.raises(FileNotFoundError, match="there is no installed package speculators.nowhere"):
        local_path("pkg://speculators.nowhere/tiny")
