"""Private interfaces of Numba, llvmlite and numba-cuda: the package uses them in two files, and all of them exist."""

import ast
import importlib
from pathlib import Path

import numpy as np
import pytest

import fastloss

PACKAGE = Path(fastloss.__file__).parent
CPU, CUDA = Path("cpu/simd/llvm_hints.py"), Path("cuda/device/numba_cuda.py")
# What Numba and llvmlite document; other modules of theirs are private.
PUBLIC = {"numba", "numba.extending", "numba.cuda.extending", "llvmlite"}
# Loaded for its time alone: a Numba that has no such module would only compile its first kernel more slowly.
PRELOADED = {"numba.np.arraymath"}


def names_of(file):
    """Yield (module, name) of what a file imports from Numba and llvmlite; no name for a module itself."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] in ("numba", "llvmlite"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("numba", "llvmlite"):
            yield from ((node.module, alias.name) for alias in node.names)


def is_private(module, name):
    if module == "numba.cuda":
        return name in ("cgutils", "core", "codegen", "compiler", "dispatcher", "target")
    return module not in PUBLIC | PRELOADED or name in ("core", "misc", "np")


def attributes_of(folder, name):
    """Return the attributes of `name` that the files of a folder use."""
    trees = [ast.parse(path.read_text()) for path in (PACKAGE / folder).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return sorted({node.attr for node in nodes if getattr(node.value, "id", None) == name})


def test_only_two_files_import_private_names():
    files = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    found = {file for file in files if any(is_private(*each) for each in names_of(file))}
    assert found == {CPU, CUDA}


@pytest.mark.parametrize(("module", "name"), sorted(each for each in names_of(CPU) if each[1]))
def test_names_that_kernels_are_made_with(module, name):
    assert hasattr(importlib.import_module(module), name)


@pytest.mark.parametrize("name", attributes_of("cpu", "cgutils"))
def test_builders_of_code(name):
    from numba.core import cgutils

    assert callable(getattr(cgutils, name))


def test_names_that_device_kernels_are_made_with():
    pytest.importorskip("numba_cuda")
    for module, name in names_of(CUDA):
        if name and not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
    cgutils = importlib.import_module("numba.cuda.cgutils")
    assert [name for name in attributes_of("cuda", "cgutils") if not hasattr(cgutils, name)] == []


def test_private_names_of_llvmlite_and_of_compiled_functions():
    """What no import shows: attributes that the optimiser is told of as plain text, and the dispatcher's look-up."""
    import numba
    from llvmlite import ir

    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), []), "f")
    set.add(function.attributes, '"prefer-vector-width"="512"')
    assert '"prefer-vector-width"="512"' in str(function)

    assert numba.njit(_nrt=False)(lambda x: x + 1)(1) == 2  # which counts no references
    compiled = numba.njit(lambda x: x)
    compiled(1)
    (found,) = compiled.overloads.values()
    assert compiled.typeof_pyval(1) in next(iter(compiled.overloads))
    assert found.entry_point(1) == 1


def test_parts_of_kernels_are_found_in_the_disk_cache_by_their_names():
    """Numba draws another number for such a part in every process, unless it has been told one."""
    from fastloss.runtime.compile import written_out

    part = written_out(lambda x: x)
    assert part._reduce_states()["uuid"] == f"{__name__}.{part.py_func.__qualname__}"


def test_kernels_keep_nothing_of_numbas_but_their_code():
    import numba

    from fastloss.runtime.compile import Kernel

    def kept(x, queue, lead):
        return 2.0 * x[0]

    kernel = Kernel("kept", kept)
    assert kernel(1, 1, np.ones(1)) == 2.0
    (slim,) = kernel.compiled.overloads.values()
    compiled = numba.njit(lambda x: x)
    compiled(1)
    (whole,) = compiled.overloads.values()
    assert slim.library._shared_module is None
    assert hasattr(whole.library, "_shared_module")
    assert slim.type_annotation == ""
    assert not isinstance(whole.type_annotation, str)
