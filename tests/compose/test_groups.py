"""Every option of every group, and the composed runs as golden files."""

import os
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from speculators.composition.compose import compose
from speculators.settings.algorithm import AlgorithmSettings
from speculators.utils.messages import WrongInput
from speculators.verifier.facts import VerifierFacts

CONF = Path(str(files("speculators.conf")))
GOLDEN = Path(__file__).parents[1] / "golden" / "composed"
# What an option cannot do without, and what stands for verifiers that are not on this disk.
NEEDS = {
    # A draft of five heads goes no further.
    "proposal=dynamic_tree": ["proposal.depth=5"],
    "verifier_answers=served": ["data.regenerate=true"],
    "data=jsonl": ["data.path=chat.jsonl"],
    "data=hub": ["data.name=some/data"],
    "data=mixture": ["data.sources=[{path: chat.jsonl}]"],
}
OPTIONS = sorted(f"{file.parent.name}={file.stem}" for file in CONF.glob("*/*.yaml"))
# Each of them chooses the algorithm.
CHOICES = [o for o in OPTIONS if o.startswith(("algorithm=", "recipe="))]
# Groups whose settings are checked against the algorithm's; every other one is composed with one algorithm.
DEPENDENT = ("proposal", "export", "verifier_states")
ALGORITHMS = AlgorithmSettings.names()
HERE = VerifierFacts.read("pkg://speculators.assets/tiny").model_copy(
    update={
        "max_position_embeddings": 131072,
        "vocab_size": 49152,
        # Of every class that an algorithm may ask for.
        "architectures": [
            "LlamaForCausalLM",
            *(c for n in ALGORITHMS for c in AlgorithmSettings.named(n).verifier_architectures),
        ],
    }
)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every verifier has the embedded one's layers, and SmolLM2's vocabulary: no test asks the Hub."""
    monkeypatch.setattr(
        VerifierFacts, "read", lambda name, revision=None: HERE.model_copy(update={"name_or_path": name})
    )


@pytest.mark.parametrize(
    ("option", "algorithm"),
    [
        (o, a)
        for o in OPTIONS
        if o not in CHOICES
        for a in ALGORITHMS[: None if o.partition("=")[0] in DEPENDENT else 1]
    ],
)
def test_every_option_composes(option: str, algorithm: str) -> None:
    """No file of a group has a key too many or too few."""
    group = option.partition("=")[0]
    needs = ["verifier.name_or_path=some/model"] if option == "verifier=hf" else NEEDS.get(option, [])
    if group == "export" and option not in ("export=auto", "export=none"):
        engine = option.partition("=")[2]
        if engine not in AlgorithmSettings.named(algorithm).engines:
            with pytest.raises(WrongInput, match=f"{engine} .* cannot serve this"):
                compose([f"algorithm={algorithm}", option])
            return
    run = compose([f"algorithm={algorithm}", option, *needs])
    assert group == "search" or getattr(run, group) is not None


@pytest.mark.parametrize("chosen", CHOICES)
def test_composed_runs_are_golden(chosen: str) -> None:
    """A default that moves shows up here; GOLDEN=write pytest tests/compose writes the files anew."""
    run = compose([chosen, *NEEDS.get(chosen, [])]).model_dump(mode="json")
    file = GOLDEN / f"{chosen.replace('=', '_')}.yaml"
    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(run, sort_keys=False))
    assert yaml.safe_load(file.read_text()) == run, "on purpose? then GOLDEN=write pytest tests/compose"


def test_every_value_has_a_comment_above_it() -> None:
    """Who reads a group's file learns what each value is."""
    bare = []
    for file in CONF.glob("*/*.yaml"):
        if file.parent.name in ("recipe", "search"):
            continue
        lines = file.read_text().splitlines()
        for i, line in enumerate(lines):
            nested = line.startswith((" ", "-"))
            if ":" in line and not nested and not line.startswith("#") and not lines[max(i - 1, 0)].startswith("#"):
                bare.append(f"{file.parent.name}/{file.name}:{i + 1} {line}")
    assert bare == []
