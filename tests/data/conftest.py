"""What several tests of the data read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from speculators.composition.compose import compose
from speculators.data.template import ChatTemplate
from speculators.settings.data import DataSettings

Settings = Callable[..., DataSettings]


@pytest.fixture
def data(tmp_path: Path) -> Settings:
    """Settings of a file with these rows; a row that is text is a line as it stands."""

    def write(*rows: Any, **changes: Any) -> DataSettings:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        file = tmp_path / "data.jsonl"
        file.write_text("".join(f"{line}\n" for line in lines))
        overrides = [f"data.{key}={json.dumps(value)}" for key, value in changes.items()]
        return compose(["data=jsonl", f"data.path={file}", *overrides]).data

    return write


@pytest.fixture(scope="session")
def template() -> ChatTemplate:
    """The embedded verifier's."""
    run = compose([])
    return ChatTemplate.of(run.verifier, run.data)
