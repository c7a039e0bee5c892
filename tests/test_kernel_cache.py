"""Kernels on disk: whatever is wrong with the folder, calls are right, and a user is told at most once."""

import os
import shutil
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest
from cases import quickly

import fastloss as fl
from fastloss.runtime import kernel_cache
from fastloss.runtime.compile import fingerprint, foreign_part

ROOT = Path(fl.__file__).parents[1]
CODE = """
import sys, warnings
import numpy as np
import fastloss as fl

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    x = np.linspace(-1, 1, 12)
    value, gradient = fl.value_and_grad(fl.mse_loss)(x, x + 2)
    fl.mse_loss(x.astype("f4"), x.astype("f4"))
assert np.isclose(value, 4) and np.allclose(gradient, -1 / 3), (value, gradient)
for one in caught:
    assert one.filename == "<string>", one.filename
    print(one.category.__name__, one.message)
"""


def start(folder, code=CODE, root=ROOT, **environment):
    """Start a process with a cache folder, or with none named, that calls a loss of two dtypes."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FASTLOSS_", "NUMBA_"))}
    named = {} if folder is None else {"FASTLOSS_CACHE_DIR": str(folder)}
    environment = {**clean, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", **named, **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    """Return what a process has printed, its warnings."""
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return output.strip()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Return a folder with the kernels of the calls."""
    folder = tmp_path_factory.mktemp("cache") / "made" / "anew"
    assert finish(start(folder)) == ""
    return folder


@pytest.fixture
def folder(filled, tmp_path):
    """Return a copy of it."""
    return shutil.copytree(filled, tmp_path / "cache")


def contents(folder):
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}


def test_kernels_are_kept_and_found(folder):
    before = contents(folder)
    assert len([name for name in before if name.endswith(".nbc")]) >= 2
    assert finish(start(folder)) == ""
    assert contents(folder) == before


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "flipped"])
def test_a_damaged_file_is_replaced(folder, suffix, damage):
    """In this process: compiling is what takes long, and is left out."""
    import numba
    from numba.core import caching

    def one(x):
        return x + 1

    def found():
        compiled = numba.njit(one)
        compiled._cache = maker(one)
        assert compiled(1) == 2
        return sum(compiled.stats.cache_hits.values())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_cache, "folders", lambda: (folder, (folder,)))
        maker = kernel_cache._disk_cache(caching.FunctionCache, caching.IndexDataCacheFile)
        assert [found(), found()] == [0, 1]
        (path,) = folder.glob(f"*one-*{suffix}")
        whole = path.read_bytes()
        flipped = whole[:-50] + bytes([whole[-50] ^ 1]) + whole[-49:]
        garbage = b"\x80\x04garbage" * 9
        path.write_bytes({"cut": whole[:40], "garbage": garbage, "empty": b"", "flipped": flipped}[damage])
        assert [found(), found()] == [0, 1]


def test_a_full_disk_is_told_once(monkeypatch, tmp_path):
    import numba
    from numba.core import caching

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kernel_cache, "folders", lambda: (tmp_path, (tmp_path,)))
    monkeypatch.setattr(kernel_cache, "_warned", False)
    monkeypatch.setattr(kernel_cache, "_unkept", None)
    monkeypatch.setattr(caching.IndexDataCacheFile, "_open_for_write", full)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for one in (lambda x: x + 1, lambda x: x + 2):
            compiled = numba.njit(one)
            compiled._cache = kernel_cache._disk_cache(caching.FunctionCache, caching.IndexDataCacheFile)(one)
            compiled(1)
            kernel_cache.warn_of_memory()
    (told,) = caught
    assert "takes no more: [Errno 28] No space left on device): set FASTLOSS_CACHE_DIR" in str(told.message)
    assert told.filename == __file__


@pytest.mark.parametrize("full", [False, True], ids=["no-folder", "with-kernels"])
def test_a_folder_that_cannot_be_written(monkeypatch, folder, full):
    """Where it holds the kernels nobody has to know."""
    if not full:
        shutil.rmtree(folder)
    monkeypatch.setenv("FASTLOSS_CACHE_DIR", str(folder))
    monkeypatch.setattr(kernel_cache, "_is_writable", lambda folder: False)
    assert kernel_cache.folders.__wrapped__() == (None, (folder,) if full else ())


@pytest.mark.slow
def test_no_folder_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    for environment in ({"FASTLOSS_CACHE_DIR": str(tmp_path / "file" / "cache")}, {"NUMBA_CACHE_DIR": "/proc/cache"}):
        told = finish(start(None, **environment))
        assert told.count("RuntimeWarning") == 1
        assert "set FASTLOSS_CACHE_DIR to a folder that can be written" in told


@pytest.mark.slow
def test_the_cache_can_be_turned_off(tmp_path):
    assert finish(start(tmp_path / "cache", FASTLOSS_CACHE="0")) == ""
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_processes_that_start_together_share_a_folder(tmp_path):
    processes = [start(tmp_path / "cache") for _ in range(8)]
    assert [finish(process) for process in processes] == [""] * 8
    assert finish(start(tmp_path / "cache")) == ""


@pytest.mark.slow
def test_a_package_without_sources(tmp_path):
    shutil.copytree(ROOT / "fastloss", tmp_path / "fastloss", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "compileall", "-q", "-b", str(tmp_path / "fastloss")], check=True)
    for source in (tmp_path / "fastloss").rglob("*.py"):
        source.unlink()
    for _ in range(2):
        assert finish(start(tmp_path / "cache", root=tmp_path)) == ""
    before = contents(tmp_path / "cache")
    assert before
    assert finish(start(tmp_path / "cache", root=tmp_path)) == ""
    assert contents(tmp_path / "cache") == before


def test_two_builds_in_archives_have_kernels_of_their_own(tmp_path):
    """Python imports from a zip archive, as Spark's workers do; the sources there are no files of a folder."""
    names = set()
    for build in ("one", "two"):
        unneeded = shutil.ignore_patterns("__pycache__", "bench")
        shutil.copytree(ROOT / "fastloss", tmp_path / build / "fastloss", ignore=unneeded)
        with (tmp_path / build / "fastloss/cpu/__init__.py").open("a") as source:
            source.write(f"# {build}\n")
        archive = shutil.make_archive(str(tmp_path / build), "zip", tmp_path / build)
        code = f"import sys; sys.path.insert(0, {archive!r}); from fastloss.runtime import compile as c; "
        file, name = finish(start(tmp_path, code + "print(c.__file__, c.fingerprint())")).split()
        assert file.startswith(archive)
        names.add(name)
    assert len(names) == 2


def test_kernels_optimised_less_are_others(monkeypatch):
    """Who has set NUMBA_OPT to look into a kernel leaves no slow ones behind."""
    name = fingerprint.__wrapped__()
    monkeypatch.setattr(numba.config, "OPT", 0)
    assert fingerprint.__wrapped__() != name


def test_a_user_without_a_home_has_the_folder_beside_the_package(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("FASTLOSS_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert list(kernel_cache._candidates()) == [Path(fl.__file__).parent / "__pycache__"]


def test_a_folder_stays_where_it_was_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTLOSS_CACHE_DIR", "kernels")
    monkeypatch.chdir(tmp_path)
    assert list(kernel_cache._candidates()) == [tmp_path / "kernels"]


def test_nothing_is_said_twice(monkeypatch):
    monkeypatch.setattr(kernel_cache, "_warned", False)
    monkeypatch.setattr(kernel_cache, "_unkept", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_cache.warn_of_memory()
    kernel_cache._NoFolder().save_overload(None, None)
    with pytest.warns(RuntimeWarning, match="no folder can be written"):
        kernel_cache.warn_of_memory()
    kernel_cache._NoFolder().save_overload(None, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kernel_cache.warn_of_memory()


BITS = """
import hashlib
import numpy as np
import fastloss as fl

rng = np.random.default_rng(0)
x = (8 * rng.normal(size=(300, 97))).astype("f4")  # rows that are sure of a class, and others
print(hashlib.sha256(fl.softmax(x, 1).tobytes()).hexdigest())
"""


def test_bits_do_not_depend_on_who_compiled(tmp_path):
    """The first process compiles the kernel, the second loads it from the disk."""
    assert finish(start(tmp_path, BITS)) == finish(start(tmp_path, BITS))


@pytest.mark.slow
def test_kernels_of_two_processes_call_parts_of_their_own(tmp_path):
    """What is found on the disk is joined by names, and each process counts functions from 1."""
    code = """
import sys
import numpy as np
import fastloss as fl
x = np.linspace(-1, 1, 12, dtype="f4")
for name in sys.argv[1:]:
    print(name, fl.value_and_grad(getattr(fl, name))(x, abs(x))[0])
"""
    names = ["mse_loss", "binary_cross_entropy_with_logits", "kl_div", "quantile_loss", "soft_margin_loss"]

    def run(*chosen):
        given = code.replace("sys.argv[1:]", repr(chosen))
        return finish(start(tmp_path / "cache", given, PYTHONHASHSEED="0")).splitlines()  # the names hold a hash

    alone = [line for name in names for line in run(name)]
    assert run(*names) == alone
    assert run(*names[::-1]) == alone[::-1]


OWN = """
import os
import settings
from fastloss.custom import Elementwise, loss, maths
from settings import NUMBER, TABLE

@maths
def helper(x, k=settings.NUMBER):
    return x + type(x)(k)

@maths
def point(x):
    T = type(x)
    return {value}, (T(1),), T(0)

@loss
def own_loss(input, *, reduction="mean"):
    return Elementwise(point)
"""
CALL = "import numpy as np; from own import own_loss; print(own_loss(np.zeros(3)))"


def own(tmp_path, value, number, code=CALL):
    """Return what a process prints that has a loss of its own, whose file names what another one has computed."""
    setting = "import os\nimport numpy as np\nNUMBER = np.float32(os.environ['NUMBER'])\nTABLE = np.array([NUMBER])\n"
    (tmp_path / "settings.py").write_text(setting)
    (tmp_path / "own.py").write_text(OWN.format(value=value))
    path = f"{ROOT}{os.pathsep}{tmp_path}"
    return float(finish(start(tmp_path / "cache", code, root=path, NUMBER=str(number))))


@pytest.mark.parametrize(
    "value", quickly("x + T(NUMBER)", then=["x + T(settings.NUMBER)", "x + T(TABLE[0])", "helper(x)"])
)
def test_numbers_that_a_loss_names_are_no_others_of_the_same_sources(tmp_path, value):
    assert own(tmp_path, value, 2) == 2
    assert own(tmp_path, value, 3) == 3


def test_arrays_that_a_loss_names_are_told_apart_by_dtype_and_shape():
    def point(x):
        return x + TABLE[0]  # noqa: F821

    tables = np.zeros(2, "f4"), np.zeros(2, "i4"), np.zeros(1, "f8"), np.zeros((1, 2), "f4")
    named = [types.FunctionType(point.__code__, {"__name__": "own", "TABLE": table}) for table in tables]
    assert len({foreign_part(function) for function in named}) == len(tables)


def test_what_inner_functions_name_tells_losses_apart():
    def point(x):
        def grown(y):
            return y * NUMBER + settings.OFFSET  # noqa: F821

        return grown(x)

    def named(number, offset):
        module = types.ModuleType("settings")
        module.OFFSET = offset
        return types.FunctionType(point.__code__, {"__name__": "own", "NUMBER": number, "settings": module})

    parts = {foreign_part(named(*numbers)) for numbers in ((1.0, 2.0), (3.0, 2.0), (1.0, 3.0))}
    assert len(parts) == 3


def test_arrays_in_tuples_tell_losses_apart():
    """Printed, a long array shows its first and last numbers alone."""

    def point(x):
        return x + TABLES[1][1000]  # noqa: F821

    tables = [np.arange(2000.0), np.arange(2000.0)]
    tables[1][1000] = 7.0
    given = *[(1.0, table) for table in tables], (1.0, (1.0, tables[0])), (None, tables[0])
    named = [types.FunctionType(point.__code__, {"__name__": "own", "TABLES": one}) for one in given]
    assert len({foreign_part(function) for function in named}) == len(given)


def test_an_attribute_that_a_loss_reads_is_no_global_of_its_name():
    def value(row, p):
        return p.factor * row.z

    others = 1.0, np.arange(3), fl.mse_loss
    read = [types.FunctionType(value.__code__, {"__name__": "own", "factor": other}) for other in others]
    assert len({foreign_part(function) for function in read}) == 1


def test_a_file_that_is_edited_while_its_losses_are_in_use(tmp_path):
    """What is compiled then is not what the file says."""
    path = repr(str(tmp_path / "own.py"))
    edited = f"import own; text = open({path}).read(); open({path}, 'w').write(text.replace('T(2)', 'T(3)')); {CALL}"
    assert own(tmp_path, "x + T(2)", 0, edited) == 2
    assert own(tmp_path, "x + T(3)", 0) == 3
