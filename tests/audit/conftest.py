"""Small DATASET and SYNTHETIC folders, made by hand from smooth random textures."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from xraygen.atomic import write_json
from xraygen.dataset.manifest import write_manifest
from xraygen.dataset.store import DatasetInfo, content_sha256, open_dataset

Textures = Callable[..., NDArray[np.uint16]]
MakeDataset = Callable[..., Path]
MakeSynthetic = Callable[..., Path]

FINDINGS = ["NORMAL"] * 20 + ["PNEUMONIA"] * 20 + ["NORMAL"] * 2 + ["PNEUMONIA"] * 2
FINDINGS += ["NORMAL"] * 10 + ["PNEUMONIA"] * 10


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Features of these tests stay out of the user's cache."""
    monkeypatch.setenv("XRAYGEN_CACHE", str(tmp_path_factory.getbasetemp() / "feature-cache"))


@pytest.fixture(scope="session")
def textures() -> Textures:
    """`textures(count, seed=0)`: uint16 [count, 24, 24], each a random mixture of a few broad waves."""

    def make(count: int, seed: int = 0, size: tuple[int, int] = (24, 24)) -> NDArray[np.uint16]:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[0 : size[0], 0 : size[1]] / max(size)
        waves = np.stack([np.cos(np.pi * (i * y + j * x)) for i in range(4) for j in range(4)])
        strengths = rng.standard_normal((count, len(waves))) / (1 + np.arange(len(waves)))
        images = 0.5 + 0.12 * np.tensordot(strengths, waves, 1) + 0.01 * rng.standard_normal((count, *size))
        return np.asarray(np.rint(images.clip(0, 1) * 65535), dtype=np.uint16)

    return make


@pytest.fixture(scope="session")
def make_dataset() -> MakeDataset:
    """`make_dataset(folder, images, splits)` writes a DATASET with one patient per film, or with `patients`."""

    def make(
        folder: Path, images: NDArray[Any], splits: list[str], patients: list[str] | None = None
    ) -> Path:
        folder.mkdir(parents=True)
        count, height, width = images.shape[:3]
        np.save(folder / "images.npy", images)
        manifest = pd.DataFrame(
            {
                "image_id": [f"real-{row:04d}" for row in range(count)],
                "source": "",
                "patient": patients or [f"patient-{row}" for row in range(count)],
                "study": "",
                "split": splits,
                "view": "PA",
                "sex": "",
                "age": np.nan,
                "rows": height,
                "columns": width,
                "bits_stored": 12,
                "photometric": "MONOCHROME2",
                "pixel_spacing_mm": np.nan,
            }
        )
        write_manifest(folder / "manifest.csv", manifest, [])
        info = DatasetInfo(
            format_version=1,
            created_by="test",
            size=(height, width),
            bits=images.dtype.itemsize * 8,
            channels=1 if images.ndim == 3 else 3,
            settings={},
            counts={"seen": count, "accepted": count, "rejected": 0},
            label_names=(),
            content_sha256=content_sha256(folder),
        )
        write_json(folder / "dataset.json", info.to_json())
        return folder

    return make


@pytest.fixture(scope="session")
def make_synthetic() -> MakeSynthetic:
    """`make_synthetic(folder, images)` writes a SYNTHETIC of 16-bit PNG."""

    def make(folder: Path, images: NDArray[np.uint16]) -> Path:
        (folder / "images").mkdir(parents=True)
        rows = []
        for seed, image in enumerate(images):
            path = folder / "images" / f"{seed}.png"
            Image.fromarray(image).save(path)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            rows.append((f"images/{seed}.png", seed, "ddim", 50, "", digest))
        columns = ["file_name", "seed", "sampler", "steps", "guidance", "sha256"]
        pd.DataFrame(rows, columns=columns).to_csv(folder / "metadata.csv", index=False)
        (folder / "provenance.json").write_text(json.dumps({"id": "test"}))
        return folder

    return make


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory, textures: Textures, make_dataset: MakeDataset) -> Path:
    """A DATASET of 40 training, 4 validation and 20 test films."""
    splits = ["train"] * 40 + ["validation"] * 4 + ["test"] * 20
    return make_dataset(tmp_path_factory.mktemp("real") / "dataset", textures(64), splits)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory, textures: Textures, make_dataset: MakeDataset) -> Path:
    """40 training, 4 validation and 20 test films, half of each PNEUMONIA and darker; ages in three bands."""
    images = textures(64, seed=1)
    images[np.array(FINDINGS) == "PNEUMONIA"] //= 2
    splits = ["train"] * 40 + ["validation"] * 4 + ["test"] * 20
    folder = make_dataset(tmp_path_factory.mktemp("labelled") / "dataset", images, splits)
    manifest = open_dataset(folder).manifest.assign(
        finding=FINDINGS,
        sex=["F", "M"] * 32,
        age=np.resize([3.0, 4.0, 17.5, 70.0, np.nan], 64),
        note=[f"note {row}" for row in range(64)],
    )
    write_manifest(folder / "manifest.csv", manifest, ["finding", "note"])
    info = json.loads((folder / "dataset.json").read_text())
    info |= {"label_names": ["finding", "note"], "content_sha256": content_sha256(folder)}
    (folder / "dataset.json").write_text(json.dumps(info))
    assert DatasetInfo.from_json(info).label_names == ("finding", "note")
    return folder


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory, textures: Textures, make_synthetic: MakeSynthetic) -> Path:
    """30 films: 14 told NORMAL, 12 told PNEUMONIA and as bright as the normal ones, 4 told nothing."""
    folder = make_synthetic(tmp_path_factory.mktemp("told") / "synthetic", textures(30, seed=7))
    metadata = pd.read_csv(folder / "metadata.csv", dtype=str, keep_default_na=False)
    metadata["finding"] = ["NORMAL"] * 14 + ["PNEUMONIA"] * 12 + [""] * 4
    metadata["age"] = ["4.9"] * 9 + ["64"] * 3 + [""] * 18
    metadata.to_csv(folder / "metadata.csv", index=False)
    return folder
