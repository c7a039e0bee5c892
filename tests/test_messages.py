"""What users are told of arrays and options of other libraries, and of Numba's environment."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl

X = np.linspace(-1, 1, 12).reshape(4, 3)
Y = np.array([0, 1, 2, 1])
STEP = fl.value_and_grad(fl.cross_entropy)


@pytest.mark.parametrize("kind", ["numpy", "numpy int8", "torch", "jax"])
def test_arrays_without_axes_are_integer_options(kind):
    if kind in ("torch", "jax"):
        library = pytest.importorskip(kind if kind == "torch" else "jax.numpy")
        one = library.asarray(1)
    else:
        one = np.array(1, "i1" if kind.endswith("8") else int)
    for _ in range(3):
        assert fl.cross_entropy(X, Y, ignore_index=one) == fl.cross_entropy(X, Y, ignore_index=1)
        np.testing.assert_array_equal(fl.softmax(X, dim=one - 1), fl.softmax(X, dim=0))
    loss = fl.CrossEntropyLoss(ignore_index=one)
    assert loss == fl.CrossEntropyLoss(ignore_index=1)
    assert repr(loss) == repr(fl.CrossEntropyLoss(ignore_index=1))


@pytest.mark.parametrize("wrong", [np.array(1.5), np.array([1, 2]), "1"])
def test_what_is_no_integer_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="ignore_index must be an integer"):
        fl.cross_entropy(X, Y, ignore_index=wrong)


def test_arrays_that_are_not_written_in_place_say_so():
    jax = pytest.importorskip("jax.numpy")
    x = jax.asarray(X, "float32")
    for given in (x, np.zeros((4, 3), "f4")):
        with pytest.raises(TypeError, match=r"grad_out cannot be given with arrays of jax.*leave it out"):
            STEP(x, jax.asarray(Y), grad_out=given)


@pytest.mark.parametrize("error", [TypeError, ValueError, BufferError])
def test_what_cannot_be_exported_is_named(error):
    """Arrow refuses to show an array with nulls."""

    class Nulls:
        dtype = "float64"
        shape = (3,)

        def __dlpack_device__(self):
            return 1, 0

        def __array__(self, dtype=None, copy=None):
            return np.zeros(3)

        def __dlpack__(self, **kwargs):
            raise error("Can only use DLPack on arrays with no nulls.")

    with pytest.raises(TypeError, match=r"target: NumPy cannot read this Nulls of dtype float64: .*no nulls"):
        fl.mse_loss(np.zeros(3), Nulls())


@pytest.mark.filterwarnings("ignore:Exporting an unversioned DLPack capsule:DeprecationWarning")
def test_arrow_nulls_are_named():
    pyarrow = pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match=r"input: .*null"):
        fl.mse_loss(pyarrow.array([1.0, None, 2.0]), np.zeros(3))


def test_missing_values_of_pandas_are_named():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": pandas.array([1.0, None], "Float64"), "b": pandas.array([1, 2], "Int64")})
    with pytest.raises(TypeError, match=r"^input: dtype object is not supported; make numbers of it.*\.to_numpy\("):
        fl.mse_loss(frame, np.zeros((2, 2)))
    assert np.isnan(fl.mse_loss(frame.to_numpy(float, na_value=np.nan), np.zeros((2, 2))))


def test_a_name_that_is_no_argument_is_told_from_one_that_is_not_given():
    with pytest.raises(ValueError, match="'wieght' is no argument of mse_loss, whose arguments are 'input'"):
        fl.grad(fl.mse_loss, wrt="wieght")
    with pytest.raises(ValueError, match="not differentiable with respect to 'sample_weight', only to 'input'"):
        fl.grad(fl.mse_loss, wrt="sample_weight")
    with pytest.raises(ValueError, match=r"with respect to 'weight': it is not given$"):
        fl.grad(fl.mse_loss, wrt="weight")(X, X)
    with pytest.raises(ValueError, match=r"with respect to 'target': it holds class indices$"):
        fl.grad(fl.cross_entropy, wrt="target")(np.ones((2, 3)), np.zeros(2, int))
    with pytest.raises(ValueError, match=r"with respect to 'weight': it has to be given, beside class probabilities$"):
        fl.grad(fl.cross_entropy, wrt="weight")(np.ones((2, 3)), np.zeros(2, int), weight=np.ones(3))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("NUMBA_DISABLE_JIT", "1", "RuntimeError: NUMBA_DISABLE_JIT is set, and losses are computed by what Numba"),
        ("NUMBA_NUM_THREADS", "abc", "NUMBA_NUM_THREADS must be a positive integer, got 'abc'"),
        pytest.param("NUMBA_DEBUGINFO", "1", None, marks=pytest.mark.slow),
    ],
)
def test_numbas_environment(variable, value, told, tmp_path):
    code = "import numpy as np, fastloss as fl; print(fl.mse_loss(np.ones(3), np.zeros(3)))"
    named = {"PYTHONPATH": str(Path(fl.__file__).parents[1]), "FASTLOSS_CACHE_DIR": str(tmp_path), variable: value}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **named}, capture_output=True, text=True)
    if told is None:
        assert done.stdout.strip() == "1.0", done.stderr
    else:
        assert told in done.stderr.strip().splitlines()[-1]
