"""The published folder: loads again bit for bit, names a real verifier, and is upstream's and vLLM's format."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors.torch import load_file

from speculators.config import SpeculatorModelConfig
from speculators.export.model_card import add_result, model_card
from speculators.export.preflight import CannotServe, plan
from speculators.export.publish import publish, real_name
from speculators.model import SpeculatorModel
from speculators.runfolder.folder import RunFolder
from speculators.runfolder.result import EvaluationResult
from speculators.runfolder.run_yaml import Origin, load, write_pin
from speculators.settings.data import JsonlData
from speculators.settings.run_config import RunConfig
from speculators.verifier.facts import VerifierFacts

from .conftest import EAGLE, EAGLE3

Make = Callable[..., RunConfig]
Draft = Callable[[RunConfig], SpeculatorModel]


@pytest.mark.parametrize("algorithm", [EAGLE, EAGLE3], ids=["eagle", "eagle3"])
def test_loads_again(
    algorithm: dict[str, Any], make_run: Make, make_draft: Draft, facts: VerifierFacts, verifier: Path, tmp_path: Path
) -> None:
    run = make_run(algorithm)
    model = make_draft(run)
    (tmp_path / "run.yaml").write_text("schema_version: 1\n")
    folder = publish(model, run, facts, tmp_path)
    assert folder == tmp_path / "checkpoint"
    assert (folder / "run.yaml").read_text() == "schema_version: 1\n"
    raw = json.loads((folder / "config.json").read_text())
    assert "model_type" not in raw and "auto_map" not in raw
    assert raw["speculators_config"]["verifier"]["name_or_path"] == str(verifier)
    assert not list(folder.rglob("*.py"))

    config = SpeculatorModelConfig.from_pretrained(folder)
    assert type(config) is type(model.config)
    again = SpeculatorModel.from_pretrained(folder)
    assert type(again) is type(model)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in (*model.state_dict().items(), *model.named_buffers()):
        assert torch.equal(tensor, {**again.state_dict(), **dict(again.named_buffers())}[name]), name


def test_native_folder_is_the_same_file(
    make_run: Make, make_draft: Draft, facts: VerifierFacts, tmp_path: Path
) -> None:
    run = make_run(EAGLE)
    folder = publish(make_draft(run), run, facts, tmp_path)
    assert os.path.samefile(folder / "model.safetensors", folder / "vllm" / "model.safetensors")
    native = json.loads((folder / "vllm" / "config.json").read_text())
    assert (native["architectures"], native["model_type"]) == (["LlamaForCausalLM"], "llama")
    assert (native["hidden_size"], native["num_hidden_layers"], native["rms_norm_eps"]) == (64, 1, 1e-5)
    # Once more into the same folder: the link of the first export must not be written through.
    publish(make_draft(run), run, facts, tmp_path)
    assert os.path.samefile(folder / "model.safetensors", folder / "vllm" / "model.safetensors")


def test_dtype(make_run: Make, make_draft: Draft, facts: VerifierFacts, tmp_path: Path) -> None:
    run = make_run(EAGLE3, dtype="bfloat16")
    folder = publish(make_draft(run), run, facts, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    assert {str(t.dtype) for t in tensors.values()} == {"torch.bfloat16", "torch.int64", "torch.bool"}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_draft_that_is_not_served(make_run: Make, make_draft: Draft, facts: VerifierFacts, tmp_path: Path) -> None:
    """NaN is found after training only: the folder stands, and a named target raises."""
    model = make_draft(make_run(EAGLE))
    with torch.no_grad():
        model.state_dict()["fc.weight"].fill_(float("nan"))
    with pytest.raises(CannotServe, match="fc.weight='NaN or infinity'"):
        publish(model, make_run(EAGLE), facts, tmp_path)
    folder = publish(model, make_run(EAGLE, target="auto"), facts, tmp_path)
    assert "It was exported for no engine" in (folder / "README.md").read_text()


def test_real_names(verifier: Path) -> None:
    assert real_name("org/model") == "org/model"
    assert real_name(str(verifier)) == str(verifier)
    assert real_name("pkg://speculators/models").endswith("speculators/models")


CARD = """---
base_model: verifier
library_name: speculators
pipeline_tag: text-generation
tags:
- speculators
- speculative-decoding
- eagle3
---

# A draft for verifier

This [EAGLE-3](https://arxiv.org/abs/2503.01840) draft model proposes several tokens, which verifier
verifies in one pass. Greedy text stays the same.

## Result

| | held-out prompts |
|---|---|
| acceptance length | **2.61** (95 %: 2.40 to 2.82) |
| accepted at position 1, 2, ... | 0.80, 0.50, 0.31 |
| text, compared with plain decoding | the same, with 2 tied tokens |
| tokens per second | 300; without the draft 120 |

Acceptance length is the mean number of tokens that one pass of the verifier yields: 1 + accepted / drafts; in brackets a
bootstrap interval over prompts.
Measured on 4 prompts held out of the training, up to 16 tokens each at temperature 0,
with 3 tokens drafted a pass.

![Share of drafts that are accepted up to each position](acceptance.png)

## Serve it

In this folder:

```bash
vllm serve .
vllm serve verifier --speculative-config '{"method": "eagle3", "model": ".", "num_speculative_tokens": 3}'
```

Both commands start the same; the second one names verifier, method and number of tokens itself.

Checked against vllm 0.32.0.

## How it was trained

- **Data:** `chat`; sequences of 256 tokens.
- **Objective:** the verifier's next-token distributions, up to 3 tokens ahead; loss 1 kl.
- **Optimization:** 2 epochs, 8 sequences a step and device, adamw with learning rate 0.001,
  cosine schedule, fp32, seed 0.

`run.yaml` beside this file holds every setting.
"""


def test_model_card(
    make_run: Make,
    published: Callable[[RunConfig], dict[str, Any]],
    facts: VerifierFacts,
    verifier: Path,
    tmp_path: Path,
) -> None:
    """First without a result, as a draft is published; then the result that was measured."""
    result = EvaluationResult(
        objective=2.61,
        acceptance_length=2.61,
        acceptance_length_interval=(2.4, 2.823),
        acceptance_per_position=[0.8, 0.5, 0.31],
        speculative_tokens=3,
        num_prompts=4,
        max_new_tokens=16,
        drafts=20,
        drafted=60,
        accepted=32,
        generated=52,
        matches_plain_decoding=True,
        ties=2,
        lossy=None,
        tokens_per_second=300.2,
        plain_tokens_per_second=120.0,
    )
    run = make_run(EAGLE3)
    card = model_card(run, published(run), verifier.name, plan(run, published(run), facts))
    own = RunFolder(tmp_path)
    own.checkpoint.mkdir()
    (own.checkpoint / "README.md").write_text(card)
    own.result.write_text("{}")
    own.acceptance_plot.write_bytes(b"PNG")
    assert "## Result\n\nNot evaluated.\n\n## Serve it" in card
    add_result(tmp_path, result, run)  # pyright: ignore[reportArgumentType]
    assert (own.checkpoint / "README.md").read_text() == CARD
    assert (own.checkpoint / "result.json").read_text() == "{}"
    assert (own.checkpoint / "acceptance.png").read_bytes() == b"PNG"


def test_published_pins_and_cards_have_no_private_paths(
    make_run: Make, make_draft: Draft, facts: VerifierFacts, verifier: Path, tmp_path: Path
) -> None:
    """Of the paths the last names are left, of a verifier that its config.json names the Hub id; the rest is as it was."""
    run, home = make_run(EAGLE), str(tmp_path)
    data = run.data.model_dump() | {"source": "jsonl", "path": f"{home}/my data/d.jsonl"}
    trainer = run.trainer.model_dump() | {"init_from": f"{home}/earlier/checkpoint"}
    export = run.export.model_dump() | {"hub_repo": "me/draft"}
    changed = {"data": data, "cache": {"dir": f"{home}/cache", "limit_gb": None}, "trainer": trainer, "export": export}
    run = RunConfig.model_validate(run.model_dump(mode="json") | changed)
    overrides = [f"data.path='{home}/my data/d.jsonl'", "seed=0", f"data.sources=[{{path:{home}/a.jsonl}}]"]
    sources = {"seed": f"{home}/conf/recipe/mine.yaml:3", "data.path": f"override data.path='{home}/my data/d.jsonl'"}
    write_pin(run, tmp_path, Origin(overrides, [f"file://{home}/conf"], sources))
    own = load(tmp_path)
    for known, name in ((None, verifier.name), ("org/model", "org/model"), ("/home/me/model", verifier.name)):
        config = json.loads((verifier / "config.json").read_text()) | {"_name_or_path": known}
        (verifier / "config.json").write_text(json.dumps(config))
        folder = publish(make_draft(run), run, facts, tmp_path)
        card, pin = (folder / "README.md").read_text(), load(folder)
        assert home not in card and home not in (folder / "run.yaml").read_text()
        assert f"base_model: {name}\n" in card and f"vllm serve {name} --spec" in card and "./vllm" in card
        assert pin.run.verifier.name_or_path == name
    assert pin.overrides == ["data.path='d.jsonl'", "seed=0", "data.sources=[{path:a.jsonl}]"]
    assert pin.searchpath == ["file://conf"]
    assert pin.sources == {"seed": "mine.yaml:3", "data.path": "override data.path='d.jsonl'"}
    assert pin.run.cache.dir is None and isinstance(pin.run.data, JsonlData) and pin.run.data.path == "d.jsonl"
    assert pin.run.trainer.init_from == "checkpoint" and pin.run.export.hub_repo is None
    changed = ("data", "cache", "verifier", "speculator", "trainer", "export")
    assert pin.run.model_copy(update={key: dict(own.run)[key] for key in changed}) == own.run

    (tmp_path / "run.yaml").write_text("# as it was\nschema_version: 3\n")
    folder = publish(make_draft(run), run, facts, tmp_path)
    assert (folder / "run.yaml").read_text() == "# as it was\nschema_version: 3\n"


@pytest.mark.parametrize("name", ["<b>it's<i>", "a`b``c", "[x](y)", "# *head* _line_", "x\n---\ntags: [evil]", "&lt;"])
def test_names_stay_text_in_the_card(
    name: str, make_run: Make, published: Callable[[RunConfig], dict[str, Any]], facts: VerifierFacts
) -> None:
    """A Markdown reader shows the verifier's name and the data's as they are, and nothing comes of them."""
    run = make_run(EAGLE3)
    run = run.model_copy(update={"data": run.data.model_copy(update={"source": name})})
    card = model_card(run, published(run), name, plan(run, published(run), facts))
    read = ModelCard(card)
    assert read.data.to_dict() == {
        "base_model": name,
        "library_name": "speculators",
        "pipeline_tag": "text-generation",
        "tags": ["speculators", "speculative-decoding", "eagle3"],
    }
    tokens = MarkdownIt("commonmark").parse(read.text)
    line = " ".join(name.split())
    assert "".join(part.content for part in tokens[1].children or []) == f"A draft for {line}"
    parts = [part for token in tokens for part in (token, *(token.children or []))]
    assert {t.type for t in parts} & {"html_inline", "html_block", "em_open", "hr"} == set()
    assert [t.attrs["href"] for t in parts if t.type == "link_open"] == ["https://arxiv.org/abs/2503.01840"]
    assert line in [t.content for t in parts if t.type == "code_inline"]
    (command,) = [t.content for t in parts if t.type == "fence"]
    short, apart = ["vllm", "serve", "."], ["vllm", "serve", name, "--speculative-config"]
    assert shlex.split(command)[:-1] == [*short, *apart]


@pytest.mark.slow
@pytest.mark.skipif("SPECULATORS_UPSTREAM_PYTHON" not in os.environ, reason="needs an interpreter with upstream 0.9.0")
def test_upstream_loads_it(
    make_run: Make, make_draft: Draft, facts: VerifierFacts, verifier: Path, tmp_path: Path
) -> None:
    """Upstream's own class takes every tensor of ours; embedding and verifier head come from the verifier's file."""
    from safetensors.torch import save_file

    save_file(
        {"model.embed_tokens.weight": torch.randn(96, 64), "model.norm.weight": torch.ones(64)},
        verifier / "model.safetensors",
        metadata={"format": "pt"},
    )
    run = make_run(EAGLE3)
    folder = publish(make_draft(run), run, facts, tmp_path)
    code = f"""
import torch
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from safetensors.torch import load_file
from speculators import SpeculatorModel
model = SpeculatorModel.from_pretrained({str(folder)!r})
assert type(model).__module__.startswith("speculators.models.eagle3"), type(model)
state = model.state_dict()
for name, tensor in load_file({str(folder / "model.safetensors")!r}).items():
    assert torch.equal(state[name], tensor), name
"""
    done = subprocess.run(
        [os.environ["SPECULATORS_UPSTREAM_PYTHON"], "-W", "ignore", "-c", code],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
