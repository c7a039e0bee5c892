"""README.md: its generated parts are current, its examples run, its commands name extras that exist."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Examples may be indented, inside a numbered list.
EXAMPLES = [
    re.sub(rf"^{indent}", "", body, flags=re.MULTILINE)
    for indent, body in re.findall(r"^( *)```python\n(.*?)^ *```$", README, flags=re.MULTILINE | re.DOTALL)
]


def test_generated_parts_are_current():
    spec = importlib.util.spec_from_file_location("bench_readme", ROOT / "bench" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    current = readme.updated(README, readme.newest_results())
    assert current == README, "out of date: run python bench/readme.py"


def test_there_are_examples():
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("number", range(6))
def test_example_runs_without_a_warning(number, tmp_path):
    example = EXAMPLES[number]
    for module in re.findall(r"^(?:import|from) (\w+)", example, flags=re.MULTILINE):
        if module == "cupy":
            pytest.skip("needs CuPy and a GPU")
        pytest.importorskip(module)
    after, environment = "", dict(os.environ)
    if "def log_cosh_loss" in example:  # the loss that the page adds must be one
        after = (
            "\nimport numpy as np, fastloss as fl\n"
            "x, t = np.array([0.5, -40.0]), np.zeros(2)\n"
            "value, gradient = fl.value_and_grad(log_cosh_loss)(x, t, reduction='sum')\n"
            "np.testing.assert_allclose(value, np.log(np.cosh(x)).sum(), rtol=1e-14)\n"
            "np.testing.assert_allclose(gradient, np.tanh(x), rtol=1e-14)\n"
        )
        # A cache of its own: kernels of a loss that is no part of the package must not be kept.
        environment["NUMBA_CACHE_DIR"] = str(tmp_path / "cache")
    path = tmp_path / "example.py"
    path.write_text(example + after)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_commands_use_extras_that_exist():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    used = {extra for found in re.findall(r"'\.\[([\w,]+)\]'", README) for extra in found.split(",")}
    assert used
    assert used <= set(extras)


def test_linked_files_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
