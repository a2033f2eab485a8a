"""A verifier in a folder, and a local server of its states."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from speculators.data.served_states import ServedStates, served_states
from speculators.settings.states import ServedStates as Settings
from speculators.verifier.in_process import Verifier
from speculators.verifier.loader import VerifierLoader
from tests.cache.conftest import folder as folder
from tests.cache.conftest import sequences
from tests.cache.conftest import settings as verifier_settings
from tests.cache.conftest import verifier as verifier

from .server import LocalServer

Open = Callable[..., AbstractContextManager[ServedStates]]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The folder that the server and the run share."""
    shared = tmp_path / "shared"
    shared.mkdir()
    return shared


@pytest.fixture
def server(verifier: Verifier, shared: Path) -> Iterator[LocalServer]:
    """A server of layers 0, 2 and the last of 3."""
    server = LocalServer(verifier, [0, 2, 3], shared).start()
    yield server
    server.stop()


@pytest.fixture
def open_served(server: LocalServer, folder: Path, verifier: Verifier, shared: Path) -> Open:
    """Opens the server's states, as a run does."""

    def open(layer_ids: Sequence[int] = (0, 2), **settings: Any) -> AbstractContextManager[ServedStates]:
        loader = VerifierLoader(verifier_settings(folder), verifier.device)
        return served_states(chosen(server, **settings), loader, sequences(), layer_ids, 64)

    return open


def chosen(server: LocalServer, **settings: Any) -> Settings:
    """Settings of a server that is given by its address."""
    values = {
        "source": "served", "url": server.url, "python": None, "args": None, "folder": str(server.folder), "concurrency": 4,
        "prefetch_steps": 2, "keep": False, "timeout": 30.0,
    }  # fmt: skip
    return Settings.model_validate(values | settings)
