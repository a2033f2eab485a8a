"""A verifier's config.json that cannot be used is one message with its name, and the value."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from speculators.composition.compose import compose
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"intermediate_size": [768]}, "intermediate_size=[768]"),
        ({"head_dim": "wide"}, "head_dim='wide'"),
        ({"hidden_size": None}, "no hidden_size"),
        ({"rope_parameters": 3}, "must be a mapping, not 3"),
        (None, "config.json is no JSON"),
    ],
)
def test_a_config_that_cannot_be_used(changes: dict[str, Any] | None, part: str, tmp_path: Path) -> None:
    config = json.loads((Path(str(files("speculators.assets"))) / "tiny" / "config.json").read_text())
    text = "{" if changes is None else json.dumps(config | changes)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="^verifier.name_or_path: ") as caught:
        VerifierFacts.read(str(tmp_path))
    assert part in str(caught.value)
    with pytest.raises(WrongInput) as refused:
        compose(["verifier=hf", f"verifier.name_or_path={tmp_path}"])
    assert f"set by the command-line override verifier.name_or_path={tmp_path}" in refused.value.messages[0]
