import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PRESETS = {path.stem for path in (Path(__file__).parents[1] / "configs").glob("*.yaml")}


def listed_packages() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])


def test_every_folder_with_an_init_is_listed_as_a_package() -> None:
    folders = {
        file.parent.relative_to(ROOT)
        for top in ("xraygen", "cli", "configs")
        for file in (ROOT / top).rglob("__init__.py")
    }
    names = {".".join(folder.parts) for folder in folders}
    mapped = {f"xraygen.{name}" if name in {"cli", "configs"} else name for name in names}
    assert mapped == listed_packages()


def test_top_level_folders_are_not_importable_from_elsewhere(tmp_path: Path) -> None:
    for name in ("cli", "configs", "tests"):
        code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is not None)"
        assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_help_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from importlib.metadata import entry_points\n"
        "(script,) = entry_points(group='console_scripts', name='xraygen')\n"
        "app = script.load()\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'numpy', 'pandas', 'pydicom', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "ingest" in result.stdout


def test_every_pinned_dependency_is_in_the_constraints() -> None:
    pins = {
        line.partition("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {name.replace("==", ">=").partition(">=")[0].partition("[")[0].lower() for name in wanted}
    assert names <= pins


def test_every_required_package_is_imported() -> None:
    imported = {
        match[1]
        for folder in ("xraygen", "cli")
        for file in (ROOT / folder).rglob("*.py")
        for match in re.finditer(r"^\s*(?:from|import) (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    brought_by = packages_distributions()
    used = {name.lower().replace("_", "-") for package in imported for name in brought_by.get(package, ())}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = {re.split("[=>]", name)[0] for name in project["dependencies"]}
    assert required - used == {"pyjpegls"}  # by which pydicom compresses phantoms


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the sdist, built from a copy of what git has, without the network."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    names = [name for name in tracked.decode().split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    for kind in ("--wheel", "--sdist"):
        command = [
            sys.executable,
            "-m",
            "build",
            kind,
            "--no-isolation",
            "--outdir",
            str(folder / "dist"),
            ".",
        ]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
    return folder / "dist"


@pytest.mark.slow
def test_the_wheel_ships_presets_and_command_line_under_xraygen_alone(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"xraygen/configs/{preset}.yaml" for preset in PRESETS} <= names
    model = {
        file.relative_to(ROOT).as_posix()
        for file in (ROOT / "xraygen" / "shipped").rglob("*")
        if file.is_file()
    }
    assert {name for name in model if "__pycache__" not in name} <= names
    assert {"xraygen/cli/main.py", "xraygen/py.typed", "xraygen/audit/report.html.j2"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"xraygen"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz", "editable"])
def test_each_kind_of_install_runs_help_and_leaves_nothing_stray(
    built: Path, tmp_path: Path, kind: str
) -> None:
    venv.create(tmp_path / "venv", with_pip=True, system_site_packages=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    # The command line itself is all that --help needs; its dependencies come from the running environment.
    running = next(path for path in sys.path if path.endswith("site-packages"))
    (site / "running.pth").write_text(running + "\n")
    subprocess.run(
        [python, "-m", "pip", "uninstall", "--quiet", "--yes", "setuptools"], check=True
    )  # too old to build
    if kind == "editable":
        with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
            archive.extractall(tmp_path / "source", filter="data")
        target = ["-e", str(next((tmp_path / "source").iterdir()))]
    else:
        target = [str(next(built.glob(kind)))]
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-build-isolation",
            "--force-reinstall",
            *target,
        ],
        check=True,
    )
    result = subprocess.run(
        [tmp_path / "venv" / "bin" / "xraygen", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "interpolate" in result.stdout
    assert not {"cli", "configs", "tests"} & {path.name for path in site.iterdir()}
