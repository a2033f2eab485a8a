"""Small verifiers of the classes that only some algorithms draft for."""

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
from train_tiny_mimo import TINY, convert

from speculators.settings.algorithm import AlgorithmSettings


@pytest.fixture(scope="session")
def drafted_for(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Overrides with which an algorithm composes; one for MiMo's class drafts for the embedded verifier as such a model."""
    made: list[Path] = []

    def overrides(algorithm: str) -> list[str]:
        classes = AlgorithmSettings.named(algorithm).verifier_architectures
        if not classes:
            return []
        assert classes == ("MiMoForCausalLM",), f"there is no small verifier of {classes}"
        if not made:
            made.append(tmp_path_factory.mktemp("mimo"))
            convert(TINY, made[0])
        chat = files("speculators.assets") / "chat.jsonl"
        return [f"verifier.name_or_path={made[0]}", "data=jsonl", f"data.path={chat}"]

    return overrides
