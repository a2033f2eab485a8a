"""Numbers in a published folder that are wrong although names, shapes and dtypes are right: `check` and `evaluate` refuse."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from vllm_verdicts import read_golden, write_folder

from speculators.cli.main import app
from speculators.format import tensors as reader

BASES = read_golden()["bases"]
Tensors = dict[str, torch.Tensor]
Change = Callable[[Tensors], Any]


def broken(base: str, change: Change, folder: Path) -> Path:
    """A published folder of zeros with some tensors changed, in vLLM's own format too."""
    write_folder(BASES, {"base": base}, folder)
    for file in folder.rglob("model.safetensors"):
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
    return folder


def put(name: str, place: int, value: float, dtype: torch.dtype = torch.float32) -> Change:
    """One number of a tensor, which becomes `dtype`."""

    def change(tensors: Tensors) -> None:
        tensors[name] = tensors[name].to(dtype)
        tensors[name].view(-1)[place] = value

    return change


def offsets(**values: int) -> Change:
    """d2t with some offsets changed, and t2d marking what it then reaches."""

    def change(tensors: Tensors) -> None:
        for place, value in values.items():
            tensors["d2t"][int(place.removeprefix("at_"))] = value
        target_D = torch.arange(len(tensors["d2t"])) + tensors["d2t"]
        tensors["t2d"] = torch.zeros_like(tensors["t2d"])
        tensors["t2d"][target_D.clamp(0, len(tensors["t2d"]) - 1)] = True

    return change


CASES: dict[str, tuple[str, Change, str]] = {
    "NaN": ("eagle3", put("fc.weight", 7, float("nan")), "wrong: fc.weight='NaN or infinity'"),
    "infinity": ("eagle3", put("fc.weight", -1, float("inf")), "wrong: fc.weight='NaN or infinity'"),
    "bfloat16": ("eagle3", put("norm.weight", 3, float("-inf"), torch.bfloat16), "wrong: norm.weight='NaN or"),
    "bfloat16 NaN": ("eagle3", put("norm.weight", 3, float("nan"), torch.bfloat16), "wrong: norm.weight='NaN or"),
    "float16": ("eagle3", put("norm.weight", 3, float("nan"), torch.float16), "wrong: norm.weight='NaN or"),
    "d2t beyond the vocabulary": ("eagle3", offsets(at_1023=3073), "wrong: d2t=[0, 0, 0, 0]: i + d2t[i] must be"),
    "d2t below 0": ("eagle3", offsets(at_0=-1), "wrong: d2t=[-1, 0, 0, 0]"),
    "d2t twice": ("eagle3", offsets(at_1=1), "wrong: d2t=[0, 1, 0, 0]"),
    "d2t overflows": ("eagle3", offsets(at_1=2**63 - 1), "wrong: d2t="),
    "t2d": ("eagle3", lambda t: t["t2d"].logical_not_(), "wrong: t2d: does not mark the same tokens"),
    "a tensor of vLLM's own format": ("eagle", put("fc.weight", 0, float("nan")), "wrong: fc.weight='NaN or"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("command", ["check", "evaluate"])
def test_wrong_numbers(name: str, command: str, tmp_path: Path) -> None:
    base, change, message = CASES[name]
    result = CliRunner().invoke(app, [command, str(broken(base, change, tmp_path / "draft"))])
    assert result.exit_code == 2 and message in result.output, result.output


def test_a_token_map(tmp_path: Path) -> None:
    """Of a truncated Medusa head, which vLLM 0.32 does not serve, the format is asked alone."""
    folder = broken("medusa shared", lambda t: t["token_map"].copy_(torch.arange(1024) * 4), tmp_path / "draft")
    assert CliRunner().invoke(app, ["check", str(folder), "export=none"]).exit_code == 0
    folder = broken("medusa shared", lambda t: t["token_map"].fill_(5), tmp_path / "draft")
    result = CliRunner().invoke(app, ["check", str(folder), "export=none"])
    assert result.exit_code == 2 and "wrong: token_map=[5, 5, 5, 5]" in result.output


def test_good_numbers(tmp_path: Path) -> None:
    """Random weights of each dtype, and a vocabulary anywhere in the verifier's, in any order."""

    def change(tensors: Tensors) -> None:
        for name, dtype in {"fc.weight": torch.bfloat16, "norm.weight": torch.float16, "lm_head.weight": None}.items():
            tensors[name] = torch.randn(tensors[name].shape).to(dtype or torch.float32)
        target_D = torch.randperm(4096)[:1024]
        tensors["d2t"] = target_D - torch.arange(1024)
        tensors["t2d"] = torch.zeros(4096, dtype=torch.bool).index_fill(0, target_D, True)

    assert CliRunner().invoke(app, ["check", str(broken("eagle3", change, tmp_path / "draft"))]).exit_code == 0


@pytest.mark.parametrize("place", [0, 1023, 1024, 4095, 4096, 9999])
def test_every_block_is_looked_at(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK_BYTES", 4096)
    value = torch.zeros(10000)
    value[place] = torch.nan
    save_file({"a": torch.zeros(3), "b": value, "c": torch.zeros(5)}, tmp_path / "model.safetensors")
    found = reader.read_tensors(tmp_path)
    assert {name: tensor.is_finite() for name, tensor in found.items()} == {"a": True, "b": False, "c": True}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
def test_values_are_those_of_the_library(dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK_BYTES", 64)
    tensors = {name: (torch.randn(7, count) * 9).to(dtype) for name, count in (("a", 5), ("b", 0), ("c", 31))}
    save_file(tensors, tmp_path / "model.safetensors")
    found = reader.read_tensors(tmp_path)
    assert {n: t.shape for n, t in found.items()} == {n: tuple(t.shape) for n, t in tensors.items()}
    for name, tensor in tensors.items():
        assert found[name].values().tolist() == tensor.flatten().tolist()
