"""A short EAGLE-3 run for every family of verifiers: it trains, decodes losslessly and publishes what the engine serves."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from speculators.cli.launch import launch
from speculators.composition.compose import pinned
from speculators.export.checklist import check_folder
from speculators.export.engines import engine_version
from speculators.verifier.facts import VerifierFacts

from .families import FAMILIES, random_model

SHORT = [
    "algorithm=eagle3", "verifier=hf", "tracker=none", "launch.num_threads=1", "trainer.max_steps=2",
    "data=jsonl", "data.heldout_fraction=0.3", "data.max_length=128", "trainer.batch_size=1", "evaluation.num_prompts=2",
    "evaluation.max_new_tokens=8", "proposal.speculative_tokens=2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_run_from_config_to_published_draft(family: str, tmp_path: Path) -> None:
    verifier, run = tmp_path / "verifier", tmp_path / "run"
    random_model(family).save_pretrained(verifier)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(str(files("speculators.assets"))) / "tiny" / name, verifier)
    turns = [[("user", f"What is {n}?"), ("assistant", f"It is {n} and nothing but {n}.")] for n in range(16)]
    lines = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in turns]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pinned([*SHORT, f"data.path={tmp_path / 'chat.jsonl'}", f"verifier.name_or_path={verifier}"], run)
    launch(run)
    result = json.loads((run / "result.json").read_text())
    assert result["matches_plain_decoding"] and result["generated"] > 0
    engine, facts = engine_version("vllm", "0.32.0"), VerifierFacts.read(str(verifier))
    bad = [f for f in check_folder(run / "checkpoint", facts, engine) if f.bad]
    # Where vLLM gives out no states of single layers, that alone is in the way.
    assert [f.key for f in bad] in ([], ["speculators_config.verifier.architectures"])
