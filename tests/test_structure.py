"""The package's floors: imports run down only, and none of the package stands inside a function."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

import fastloss

PACKAGE = Path(fastloss.__file__).parent

# From the roof down. A module may import from its own folder and from the floors below.
FLOORS = [
    {"__main__"},
    {"cli"},
    {"commands"},
    {"bench", "boosting", "dask", "demo", "files", "jax", "plot", "testing", "torch"},
    {"__init__"},
    {"nn"},
    {"losses"},
    {"custom"},
    {"api"},
    {"call"},
    {"cpu", "cuda"},
    {"define"},
    {"runtime"},
]
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room(module):
    """Return the folder, or the file of the top level, that a module's dotted name is in."""
    parts = module.split(".")[1:]
    return parts[0] if parts else "__init__"


def floor(name):
    found = [number for number, rooms in enumerate(FLOORS) if name in rooms]
    assert found, f"{name} is on no floor: give it one in FLOORS"
    return found[0]


def imports(tree):
    """Yield the dotted name of every module of the package that a tree imports, and the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names if alias.name.split(".")[0] == "fastloss")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastloss":
            for alias in node.names:
                submodule = PACKAGE.joinpath(*node.module.split(".")[1:], alias.name)
                is_module = submodule.is_dir() or submodule.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module, node.lineno


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_run_down(file):
    here = file.parts[0].removesuffix(".py")
    for module, line in imports(ast.parse((PACKAGE / file).read_text())):
        there = room(module)
        assert there == here or floor(there) > floor(here), f"{file}:{line} imports {module}, which stands above it"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_import_of_the_package_inside_a_function(file):
    functions = [
        node for node in ast.walk(ast.parse((PACKAGE / file).read_text())) if isinstance(node, ast.FunctionDef)
    ]
    late = [found for function in functions for found in imports(function)]
    assert late == []


def prose(source):
    """Yield the docstrings and the comments of a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield from (token.string for token in tokens if token.type == tokenize.COMMENT)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_that_prose_names_are_there(file):
    """Relative to the package, to the folder of who names it, or to the checkout."""
    path = PACKAGE / file
    names = {name for text in prose(path.read_text()) for name in re.findall(r"[\w./]*\w\.py\b", text)}
    folders = (PACKAGE, path.parent, Path(__file__).parents[1])
    assert [name for name in sorted(names) if not any((folder / name).is_file() for folder in folders)] == []


@pytest.mark.parametrize("file", sorted((PACKAGE / "cpu" / "loops").glob("*.py")), ids=lambda file: file.name)
def test_what_kernels_compute_with_is_given_back(file):
    """Nothing else frees it: kernels count no references."""
    source = file.read_text()
    assert len(re.findall(r"\bscratch\(", source)) == len(re.findall(r"\bfree\(", source))


def test_no_circle():
    """Within a folder too."""
    edges = {}
    for file in FILES:
        name = ".".join(("fastloss", *file.with_suffix("").parts)).removesuffix(".__init__")
        edges[name] = {module for module, _ in imports(ast.parse((PACKAGE / file).read_text()))} - {name}
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in edges.get(name, ()):
            visit(other)
        path.pop()
        done.add(name)

    for name in edges:
        visit(name)


def test_public_names():
    assert sorted(fastloss.__all__, key=lambda name: (name[0].islower(), name)) == list(fastloss.__all__)
    assert not hasattr(fastloss, "fastloss")
    assert all(hasattr(fastloss, name) for name in fastloss.__all__)
