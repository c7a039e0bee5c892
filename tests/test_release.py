"""What is released: the files of source archive and wheel, what the wheel says of itself, and that it runs."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling, which builds the package, is not installed")

ROOT = Path(__file__).parent.parent
SHIPPED = ("fastloss", "tests", "bench", "docs", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml")
# What work leaves in a checkout.
LITTER = (
    "fastloss/__pycache__/api.cpython-311.pyc",
    "fastloss/cpu/__pycache__/kernel.nbi",
    "tests/__pycache__/test_x.nbc",
    "tests/.hypothesis/examples/x",
    "docs/_build/index.html",
    "docs/losses/mse_loss.rst",
    "fastloss-bench/result.csv",
    "build/x.py",
    "dist/fastloss.whl",
    ".venv/pyvenv.cfg",
    ".pytest_cache/x",
    "fastloss-demo.png",
)

pytestmark = pytest.mark.slow


def build(folder, kind, out):
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(out)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    """Return the files of a checkout, the source that is released of it despite litter, and the wheel of that."""
    folder = tmp_path_factory.mktemp("release")
    checkout = folder / "checkout"
    checkout.mkdir()
    generated = shutil.ignore_patterns("__pycache__", "_build", ".*")
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name, **({"ignore": generated} if (ROOT / name).is_dir() else {}))
    shutil.rmtree(checkout / "docs" / "losses", ignore_errors=True)
    shutil.copy(ROOT / ".gitignore", checkout)
    files = {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()}
    for name in LITTER:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("litter")
    archive = build(checkout, "sdist", folder / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(folder / "unpacked", filter="data")
    (source,) = (folder / "unpacked").iterdir()
    return files, source, build(source, "wheel", folder / "wheel")


def test_the_source_archive_has_the_project_and_nothing_else(release):
    files, source, _ = release
    found = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    assert found == files | {"PKG-INFO"}


def test_the_wheel_has_the_package_and_nothing_else(release):
    files, _, wheel = release
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    (info,) = {name.partition("/")[0] for name in names if not name.startswith("fastloss/")}
    described = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    package = {name for name in files if name.startswith("fastloss/")}
    assert "fastloss/py.typed" in package
    assert names == package | {f"{info}/{name}" for name in described}


def test_the_wheel_says_what_it_needs(release):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with zipfile.ZipFile(release[2]) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith("/METADATA")]
        metadata = email.message_from_bytes(opened.read(name))
    extras = set(metadata.get_all("Provides-Extra"))
    assert extras == set(project["optional-dependencies"])
    assert extras >= {"cu12", "cu13", "cuda12", "cuda13", "dask", "torch", "boosting", "files", "docs"}
    assert metadata["License-Expression"] == "BSD-3-Clause"
    always = [one for one in metadata.get_all("Requires-Dist") if "extra ==" not in one]
    assert len(always) == len(project["dependencies"])


def test_the_wheel_runs_and_passes_tests_of_the_source_archive(release, tmp_path):
    _, source, wheel = release
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(site)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, "-P", *arguments], cwd=empty, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert python("-c", "import fastloss; print(fastloss.__file__)").startswith(str(site))
    assert "cross_entropy " in python("-m", "fastloss", "list")
    settings = ("-p", "no:cacheprovider", "-c", str(source / "pyproject.toml"), "--rootdir", str(source))
    tests = [str(source / "tests" / f"test_{name}.py") for name in ("registry", "commands")]
    assert " passed" in python("-m", "pytest", "-q", "-m", "not slow", "-k", "registry or list", *settings, *tests)
