"""Networks that were saved whole are read without running anything that their files name."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from xraygen.errors import FolderError
from xraygen.metrics.extractors.pickled import read_module


def whole(weights: dict[str, Tensor]) -> nn.Module:
    """A network of plain modules whose state dict has these names: what matters of a class in a pickle."""
    root = nn.Module()
    for name, tensor in weights.items():
        module, *parts = root, *name.split(".")[:-1]
        for part in parts:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        leaf = name.rpartition(".")[2]
        if leaf in ("weight", "bias"):
            module.register_parameter(leaf, nn.Parameter(tensor.clone()))
        else:
            module.register_buffer(leaf, tensor.clone())
    return root


@pytest.mark.parametrize("archive", [True, False], ids=["zip-archive", "stream-before-1.6"])
def test_it_gives_the_tensors_of_the_state_dict(tmp_path: Path, *, archive: bool) -> None:
    convolution = nn.Conv2d(1, 4, 3)
    turned = convolution.weight.detach().permute(0, 1, 3, 2)  # with strides of its own
    convolution.weight = nn.Parameter(turned)
    network = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))
    torch.save(network, tmp_path / "network.pt", _use_new_zipfile_serialization=archive)
    read, expected = read_module(tmp_path / "network.pt"), network.state_dict()
    assert list(read) == list(expected)
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("archive", [True, False], ids=["zip-archive", "stream-before-1.6"])
def test_nothing_that_a_file_names_is_run(tmp_path: Path, *, archive: bool) -> None:
    network = nn.Linear(2, 2)
    network.trap = Trap(tmp_path / "sprung")  # type: ignore[assignment]
    torch.save(network, tmp_path / "network.pt", _use_new_zipfile_serialization=archive)
    assert set(read_module(tmp_path / "network.pt")) == {"weight", "bias"}
    assert not (tmp_path / "sprung").exists()
    torch.load(tmp_path / "network.pt", weights_only=False)  # the trap is a real one
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"weights", b"PK\x03\x04"], ids=["empty", "text", "no-archive"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "network.pt").write_bytes(content)
    with pytest.raises(FolderError, match="cannot be read as a network saved by torch"):
        read_module(tmp_path / "network.pt")


def test_a_stream_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(8, 8), tmp_path / "network.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "network.pt").read_bytes()
    (tmp_path / "network.pt").write_bytes(content[:-40])
    with pytest.raises(FolderError, match="copy it again"):
        read_module(tmp_path / "network.pt")


def test_names_of_a_whole_densenet_come_back(tmp_path: Path, reference: Callable[[str], ModuleType]) -> None:
    weights = reference("convolutional").densenet121_weights(1, 18)
    torch.save(whole(weights), tmp_path / "network.pt", _use_new_zipfile_serialization=False)
    read = read_module(tmp_path / "network.pt")
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in weights.items())
