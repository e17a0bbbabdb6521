import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESTRICTED = ("cifar_batches.py", "pickled.py")
SOURCES = sorted([*(ROOT / "xraygen").rglob("*.py"), *(ROOT / "cli").rglob("*.py")])


def calls(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if "cli" not in path.parts], ids=lambda path: path.stem
)
def test_the_library_does_not_print(path: Path) -> None:
    assert "print" not in calls(path)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_file_has_one_subject_and_a_name(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in {"utils", "common", "helpers", "misc", "base"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_weights_are_data_and_never_code(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(
                word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords
            )
        # Worker processes of our own talk in pickles over a pipe; nothing that was on a disk is read by it.
        # CIFAR-10 and networks that were saved whole are published as pickles: one file each reads them by an
        # Unpickler that answers names itself (see below).
        if (
            path.name not in ("workers.py", *RESTRICTED)
            and ast.unparse(node) != "from pickle import UnpicklingError"
        ):
            assert not {"pickle", "cPickle", "dill", "shelve", "marshal"} & imported(node)


def imported(node: ast.AST) -> set[str]:
    """Top-level packages that a statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    return {(node.module or "").split(".")[0]} if isinstance(node, ast.ImportFrom) else set()


@pytest.mark.parametrize("name", RESTRICTED)
def test_a_reader_of_pickles_uses_nothing_but_an_unpickler_that_answers_names_itself(name: str) -> None:
    (path,) = (path for path in SOURCES if path.name == name)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    uses = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle"
    ]
    assert [node.attr for node in uses] == ["Unpickler"]
    imports = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert [line for line in imports if "pickle" in line] == ["import pickle"]
    (reader,) = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases)
    methods = {node.name: node for node in reader.body if isinstance(node, ast.FunctionDef)}
    assert set(methods) == {"find_class", "persistent_load"}
    assert "super" not in ast.unparse(reader)  # never pickle's own way to a name
