"""Where a verifier is, by its name."""

from pathlib import Path

import pytest

from speculators.verifier.location import local_path


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
