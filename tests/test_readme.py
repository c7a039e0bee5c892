"""README.md and the guides: generated parts are current, examples run, commands name extras that exist."""

import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
import tomllib
import warnings
from pathlib import Path

import pytest

import fastloss as fl
from fastloss import custom

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# tests/test_recipes.py runs those of the guide to more data than memory, each where its library is installed.
GUIDES = [
    ROOT / "docs" / "index.md",
    *sorted(path for path in (ROOT / "docs" / "guides").glob("*.md") if path.stem != "larger_than_memory"),
]


def examples_of(text):
    """Return the blocks of Python of a page, which may be indented."""
    return [
        textwrap.dedent(body)
        for body in re.findall(r"^ *```python\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    ]


EXAMPLES = examples_of(README)

# What the loss that README.md adds must be.
CHECK = """
x, t = np.array([0.5, 2.0, -1.0]), np.array([1.0, 1.0, 1.0])
value, gradient = fl.value_and_grad(squared_hinge_loss)(x, t, reduction="sum")
np.testing.assert_allclose(value, 0.25 + 4.0, rtol=1e-14)
np.testing.assert_allclose(gradient, [-1.0, 0.0, -4.0], rtol=1e-14)
"""


def run(code, folder):
    """Return what code prints in a process of its own, where warnings are errors; skip where a library is missing."""
    for module in re.findall(r"^(?:import|from) (\w+)", code, flags=re.MULTILINE):
        if module == "cupy":
            pytest.skip("needs CuPy and a GPU")
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    environment = {**os.environ, "PYTHONPATH": str(Path(fl.__file__).parent.parent)}
    if "fastloss.custom" in code:  # kernels of a loss that is no part of the package must not be kept
        environment["NUMBA_CACHE_DIR"] = str(folder / "cache")
    path = folder / "example.py"
    path.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_generated_parts_are_current():
    spec = importlib.util.spec_from_file_location("bench_readme", ROOT / "bench" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    assert readme.main(["--check"]) == 0, "out of date: run python bench/readme.py"


@pytest.mark.parametrize("number", range(5))
def test_example_runs_without_a_warning(number, tmp_path):
    added = CHECK if "def squared_hinge_loss(" in EXAMPLES[number] else ""
    run(EXAMPLES[number] + added, tmp_path)


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5
    assert sum("def squared_hinge_loss(" in example for example in EXAMPLES) == 1


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_guide_runs_without_a_warning(guide, tmp_path):
    """All its examples, one after the other; what it prints of a comparison is True."""
    examples = examples_of(guide.read_text(encoding="utf-8"))
    if examples:
        assert "False" not in run("\n".join(examples), tmp_path).split()


def test_names_in_other_libraries():
    """Those of the table in the documentation exist, where the library does, and no loss of torch is left out."""
    libraries = json.loads((ROOT / "docs" / "names.json").read_text(encoding="utf-8"))
    rows = [row for rows in libraries.values() for row in rows]
    assert {row["ours"] for row in rows} <= set(fl.__all__)
    for name in (row["theirs"] for row in rows):
        module, _, attribute = name.rpartition(".")
        library = imported(module)
        assert library is None or hasattr(library, attribute), name
    functional = dir(imported("torch.nn.functional"))
    ours = {name for name in fl.__all__ if name in functional and hasattr(getattr(fl, name), "__fastloss__")}
    assert ours <= {row["ours"] for row in libraries["torch"]}


def imported(module):
    """Return a module, or None where it, or what it needs, is missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except ImportError:
            return None


def test_commands_use_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    used = {extra for found in re.findall(r"'\.\[([\w,]+)\]'", README) for extra in found.split(",")}
    assert used
    assert used <= set(extras)


def test_the_reference_has_the_functions_of_custom():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"autofunction:: (\w+)", page))
    assert {name for name in custom.__all__ if inspect.isfunction(getattr(custom, name))} <= listed


def test_linked_files_exist():
    details = ROOT / "bench" / "results" / "README.md"
    for folder, text in ((ROOT, README), (details.parent, details.read_text(encoding="utf-8"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text):
            assert (folder / target).exists(), target


def test_lines_are_short():
    """But for tables, and the command that .ci/run looks for in one line."""
    lines = [line for line in README.splitlines() if not line.startswith(("|", "python3 -m venv"))]
    assert [line for line in lines if len(line) > 120] == []
