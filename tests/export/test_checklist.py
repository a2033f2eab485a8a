"""The checklist: one thing broken in a good folder, one finding that names it."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speculators.export.checklist import check_folder
from speculators.export.engines import engine_version
from speculators.export.publish import publish
from speculators.model import SpeculatorModel
from speculators.settings.run_config import RunConfig
from speculators.verifier.facts import VerifierFacts

from .conftest import EAGLE, EAGLE3

ENGINE = engine_version("vllm", "0.32.0")
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(
    make_run: Callable[..., RunConfig],
    make_draft: Callable[[RunConfig], SpeculatorModel],
    facts: VerifierFacts,
    tmp_path: Path,
) -> Callable[[dict[str, Any]], Path]:
    def make(algorithm: dict[str, Any]) -> Path:
        run = make_run(algorithm)
        return publish(make_draft(run), run, facts, tmp_path / "run")

    return make


def change_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    (folder / "manifest.json").unlink()  # as somebody does who means it
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def only_message(folder: Path, facts: VerifierFacts) -> str:
    (finding,) = check_folder(folder, facts, ENGINE)
    return str(finding)


def test_good_folders(folder: Callable[[dict[str, Any]], Path], facts: VerifierFacts) -> None:
    assert check_folder(folder(EAGLE3), facts, ENGINE) == []
    assert check_folder(folder(EAGLE), facts, ENGINE) == []


@pytest.mark.parametrize("algorithm", [EAGLE, EAGLE3], ids=["eagle", "eagle3"])
def test_every_flipped_bit_and_cut_of_published_weights_is_found(
    algorithm: dict[str, Any], folder: Callable[[dict[str, Any]], Path], facts: VerifierFacts
) -> None:
    """At random places: the file is named with the remedy. Engines would serve most of them."""
    written, draw = folder(algorithm), random.Random(0)
    file = written / "model.safetensors"
    good = file.read_bytes()
    damaged = [bytearray(good) for _ in range(30)]
    for copy in damaged:
        copy[draw.randrange(len(good))] ^= 1 << draw.randrange(8)
    for content in [*damaged, *(good[: draw.randrange(len(good))] for _ in range(10))]:
        file.write_bytes(content)
        try:
            text = "\n".join(map(str, check_folder(written, facts, ENGINE)))
        except ValueError as error:
            text = str(error)
        assert str(file) in text and "copy or export" in text, text
    file.write_bytes(good)
    assert check_folder(written, facts, ENGINE) == []
    for content in (b"", b"{", b"[]", b'{"model.safetensors": 1}', b'{"../run.yaml": ""}', b"{" * 10**4):
        (written / "manifest.json").write_bytes(content)
        assert only_message(written, facts).startswith(f"wrong: manifest.json: {written}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("fc.weight"), "wrong: fc.weight: is missing; it must be a tensor of shape [64, 192]"),
        (lambda t: t.pop("lm_head.weight"), "wrong: lm_head.weight: is missing"),
        (
            lambda t: t.update({"norm.weight": torch.ones(32)}),
            "refused: norm.weight=[32]: has the wrong shape; by the config it is [64]",
        ),
        (
            lambda t: t.update({"d2t": t["d2t"].int()}),
            "invalid: d2t='I32': has the wrong dtype; it must be int64",
        ),
        (
            lambda t: t.update({"d2t": t["d2t"] + torch.arange(40)}),
            "wrong: d2t=",
        ),
        (lambda t: t.update({"t2d": ~t["t2d"]}), "wrong: t2d: does not mark the same tokens"),
        (lambda t: t.update({"fc.bias": torch.zeros(64)}), "wrong: fc.bias=[64]: is not a tensor of a draft"),
        (
            lambda t: t.update({"verifier_lm_head.weight": torch.zeros(40, 64)}),
            "refused: verifier_lm_head.weight=[40, 64]: is not a tensor",
        ),
        (
            lambda t: t["fc.weight"][0].fill_(float("nan")),
            "wrong: fc.weight='NaN or infinity': a published tensor must be finite",
        ),
    ],
)
def test_tensors(
    change: Callable[[Tensors], Any], message: str, folder: Callable[[dict[str, Any]], Path], facts: VerifierFacts
) -> None:
    written = folder(EAGLE3)
    change_tensors(written, change)
    assert only_message(written, facts).startswith(message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("auto_map", {"AutoModel": "x.Y"}, "ignored: auto_map: vllm 0.32.0 does not read it"),
        ("norm_output", None, "invalid: norm_output: must be a valid boolean"),
    ],
)
def test_config_keys(
    key: str, value: Any, message: str, folder: Callable[[dict[str, Any]], Path], facts: VerifierFacts
) -> None:
    written = folder(EAGLE3)
    file = written / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    assert message in "\n".join(map(str, check_folder(written, facts, ENGINE)))


def test_native_folder(folder: Callable[[dict[str, Any]], Path], facts: VerifierFacts) -> None:
    written = folder(EAGLE)
    file = written / "vllm" / "config.json"
    good = file.read_text()
    file.write_text(json.dumps(json.loads(good) | {"rms_norm_eps": 1e-6}))
    assert only_message(written, facts) == (
        "wrong: vllm/config.json:rms_norm_eps=1e-06: the published config says 1e-05"
    )
    file.write_text(good)
    tensors = load_file(written / "vllm" / "model.safetensors")
    (written / "vllm" / "model.safetensors").unlink()
    save_file(tensors, written / "vllm" / "model.safetensors")
    assert check_folder(written, facts, ENGINE) == []
    tensors["fc.weight"][-1, -1] += 1
    save_file(tensors, written / "vllm" / "model.safetensors")
    assert only_message(written, facts) == (
        "wrong: vllm/model.safetensors: holds other tensors than the published file"
    )
    (written / "vllm" / "model.safetensors").unlink()
    assert only_message(written, facts).startswith(
        "refused: vllm=['model.safetensors']: is in the engine's native format"
    )
