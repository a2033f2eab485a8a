import pytest
import torch

from speculators.utils import device


def test_auto_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(device, "available", lambda: ["cuda:0", "cuda:1", "cpu"])
    assert device.resolve("auto") == torch.device("cuda:0")
    assert device.resolve("cuda") == torch.device("cuda:0")
    assert device.resolve("cuda:1") == torch.device("cuda:1")
    assert device.resolve("cpu") == torch.device("cpu")


def test_each_process_of_a_launcher_has_its_own(monkeypatch):
    monkeypatch.setattr(device, "available", lambda: ["cuda:0", "cuda:1", "cpu"])
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.resolve("auto") == device.resolve("cuda") == torch.device("cuda:1")
    assert device.resolve("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_more_processes_than_devices_are_told_so(monkeypatch, name):
    monkeypatch.setattr(device, "available", lambda: ["cuda:0", "cuda:1", "cpu"])
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="launch.num_processes: there is no cuda for process 2; .* cuda:0, cuda:1"):
        device.resolve(name)


@pytest.mark.parametrize("name", ["cuda:2", "mps", "xpu"])
def test_what_is_not_there_is_named_with_what_is(monkeypatch, name):
    monkeypatch.setattr(device, "available", lambda: ["cuda:0", "cpu"])
    with pytest.raises(
        ValueError, match=f"device={name} does not exist; this machine has cuda:0, cpu. Set device=auto"
    ):
        device.resolve(name)


def test_a_machine_always_has_a_cpu():
    assert device.available()[-1] == "cpu"
