"""The names that users import; one may move only with a changelog entry."""

import re
from importlib import import_module
from pathlib import Path

import pytest

PUBLIC = [
    "xraygen.config.load_config",
    "xraygen.models.unet.UNet",
    "xraygen.diffusion.schedule.NoiseSchedule",
    "xraygen.diffusion.gaussian.GaussianDiffusion",
    "xraygen.diffusion.samplers.ddpm_sample",
    "xraygen.diffusion.samplers.ddim_sample",
    "xraygen.diffusion.samplers.dpmpp_sample",
    "xraygen.diffusion.samplers.unipc_sample",
    "xraygen.diffusion.samplers.ddim_invert",
    "xraygen.diffusion.likelihood.variational_bound",
    "xraygen.diffusion.guidance.guided",
    "xraygen.films.dicom.read_radiograph",
    "xraygen.films.reader.RadiographReader",
    "xraygen.dataset.store.open_dataset",
    "xraygen.metrics.frechet.frechet_distance",
    "xraygen.training.checkpoint.load_run",
    "xraygen.training.conditions.read_conditions",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_where_users_import_it(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert callable(getattr(import_module(module), attribute))


def test_the_reference_documents_the_public_names_and_no_others() -> None:
    page = Path(__file__).parents[1] / "docs" / "reference" / "python.md"
    assert sorted(re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)) == sorted(
        PUBLIC
    )
