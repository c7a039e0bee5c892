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

# What the losses that the page adds must be.
CHECKS = {
    "log_cosh_loss": """
x, t = np.array([0.5, -40.0]), np.zeros(2)
value, gradient = fl.value_and_grad(log_cosh_loss)(x, t, reduction="sum")
np.testing.assert_allclose(value, np.log(np.cosh(x)).sum(), rtol=1e-14)
np.testing.assert_allclose(gradient, np.tanh(x), rtol=1e-14)
""",
    "brier_score": """
def brier(x):
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    return ((p - np.eye(5)[y]) ** 2).sum()
x, y = np.random.default_rng(0).standard_normal((3, 5)), np.array([4, 0, 2])
value, gradient = fl.value_and_grad(brier_score)(x, y, reduction="sum")
_, hessian = fl.grad_and_hess(brier_score)(x, y, reduction="sum")
np.testing.assert_allclose(value, brier(x), rtol=1e-14)
for i in np.ndindex(x.shape):
    h = np.zeros_like(x)
    h[i] = 1e-4
    np.testing.assert_allclose(gradient[i], (brier(x + h) - brier(x - h)) / 2e-4, atol=1e-7)
    np.testing.assert_allclose(hessian[i], (brier(x + h) - 2 * brier(x) + brier(x - h)) / 1e-8, atol=1e-6)
""",
}


def test_generated_parts_are_current():
    spec = importlib.util.spec_from_file_location("bench_readme", ROOT / "bench" / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    assert readme.main(["--check"]) == 0, "out of date: run python bench/readme.py"


def test_there_are_examples():
    assert len(EXAMPLES) == 9
    assert all(any(f"def {name}(" in example for example in EXAMPLES) for name in CHECKS)


@pytest.mark.parametrize("number", range(9))
def test_example_runs_without_a_warning(number, tmp_path):
    example = EXAMPLES[number]
    for module in re.findall(r"^(?:import|from) (\w+)", example, flags=re.MULTILINE):
        if module == "cupy":
            pytest.skip("needs CuPy and a GPU")
        pytest.importorskip(module)
    # A cache of its own: kernels of a loss that is no part of the package must not be kept.
    added = [check for name, check in CHECKS.items() if f"def {name}(" in example]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")} if added else dict(os.environ)
    after = "\nimport numpy as np, fastloss as fl\n" + "".join(added)
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
    details = ROOT / "bench" / "results" / "README.md"
    for folder, text in ((ROOT, README), (details.parent, details.read_text(encoding="utf-8"))):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", text):
            assert (folder / target).exists(), target


def test_lines_are_short():
    """But for tables, and the command that .ci/run looks for in one line."""
    lines = [line for line in README.splitlines() if not line.startswith(("|", "python3 -m venv"))]
    assert [line for line in lines if len(line) > 120] == []
