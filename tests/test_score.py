"""``fastloss score``: the numbers of a call on arrays that lie in memory, from files, block by block; and bad files."""

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from importlib import util
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl
from fastloss import cli
from fastloss.commands.progress import Progress
from fastloss.files.source import in_blocks

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 4)).astype(np.float32)
Y = RNG.integers(0, 4, 50)
Y[::7] = -100
COLUMNS = ",".join(f"c{k}" for k in range(4))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A folder, the current one, with the arrays as .npy."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", X)
    np.save("y.npy", Y)
    return tmp_path


def score(capsys, *args):
    """Return what ``fastloss score`` prints as JSON."""
    assert cli.main(["score", *map(str, args), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *args):
    """Return the one line that the command ends with, which has left the folder as it was."""
    before = {path: path.lstat().st_mtime_ns for path in Path().rglob("*")}
    try:
        status = cli.main(["score", *map(str, args)])
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert {path: path.lstat().st_mtime_ns for path in Path().rglob("*")} == before
    return captured.err


# -- the same numbers -------------------------------------------------------------------------------------------------


def _npy(columns_first=False):
    np.save("x.npy", np.asfortranarray(X) if columns_first else X)
    return "x.npy", "y.npy"


def _npz(save):
    save("a.npz", x=X, y=Y)
    return "a.npz:x", "a.npz:y"


def _zarr():
    zarr = pytest.importorskip("zarr")
    zarr.create_array("x.zarr", data=X, chunks=(16, 3))
    group = zarr.open_group("g.zarr", mode="w")
    group.create_array("y", data=Y, chunks=(9,))
    return "x.zarr", "g.zarr:y"


def _zarr_in_groups():
    zarr = pytest.importorskip("zarr")
    zarr.create_array("x.zarr", data=X)
    zarr.open_group("g.zarr", mode="w").create_group("of").create_array("y", data=Y)
    return "x.zarr/", "g.zarr/:of/y"  # as a shell completes the names of folders


def _parquet():
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({f"c{k}": X[:, k] for k in range(4)} | {"y": Y})
    parquet.write_table(table, "t.parquet", row_group_size=17)
    return f"t.parquet:{COLUMNS}", "t.parquet:y"


def _members_named_as_files():
    np.savez("a.npz", **{"x.npy": X, "y.zarr": Y})
    return "a.npz:x.npy", "a.npz:y.zarr"


FORMATS = {
    "members named as files": _members_named_as_files,
    "npy": _npy,
    "columns_first": lambda: _npy(columns_first=True),
    "npz": lambda: _npz(np.savez),
    "compressed": lambda: _npz(np.savez_compressed),
    "zarr": _zarr,
    "zarr in groups": _zarr_in_groups,
    "parquet": _parquet,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_mean_of_all_rows(files, capsys, name):
    found = score(capsys, "cross_entropy", *FORMATS[name](), "--batch", "7")
    np.testing.assert_allclose(found["value"], fl.cross_entropy(X, Y), rtol=1e-6)
    assert found["weight"] == found["count"] == (Y != -100).sum()
    assert found["shape"] == [50, 4]


@pytest.mark.parametrize("name", ["npy", "zarr", "parquet"])
def test_a_block_may_be_said_to_have_more_rows_than_an_integer(files, capsys, name):
    found = score(capsys, "cross_entropy", *FORMATS[name](), "--batch", 10**20)
    np.testing.assert_allclose(found["value"], fl.cross_entropy(X, Y), rtol=1e-6)


def test_values_and_gradient_are_those_of_one_call(files, capsys):
    found = score(
        capsys, "cross_entropy", "x.npy", "y.npy", "--batch", 7, "--label-smoothing", 0.1, "--out", "o.npy",
        "--grad-out", "g.npy",
    )  # fmt: skip
    options = {"label_smoothing": 0.1}
    np.testing.assert_allclose(found["value"], fl.cross_entropy(X, Y, **options), rtol=1e-6)
    np.testing.assert_allclose(np.load("o.npy"), fl.cross_entropy(X, Y, reduction="none", **options), rtol=1e-6)
    np.testing.assert_allclose(np.load("g.npy"), fl.grad(fl.cross_entropy)(X, Y, **options), rtol=1e-5, atol=1e-9)
    assert found["options"] == options
    assert sorted(path.name for path in files.iterdir()) == ["g.npy", "o.npy", "x.npy", "y.npy"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("multi_margin_loss", "x.npy", "y.npy", "--margin", "-5e-1"),
        ("--margin", "-5e-1", "multi_margin_loss", "x.npy", "y.npy"),
        ("--margin=-.5", "--batch", "7", "multi_margin_loss", "x.npy", "y.npy"),
    ],
)
def test_options_stand_anywhere_and_may_be_negative(files, capsys, arguments):
    np.save("y.npy", abs(Y) % 4)
    expected = fl.multi_margin_loss(X, abs(Y) % 4, margin=-0.5)
    np.testing.assert_allclose(score(capsys, *arguments)["value"], expected, rtol=1e-6)


def test_weights_count_in_the_divisor(files, capsys):
    t, weight, samples = RNG.random((3, 50, 4)).astype(np.float32)
    samples = samples[:, 0]
    np.save("t.npy", t)
    np.save("w.npy", weight)
    np.save("s.npy", samples)
    flags = ("--weight", "w.npy", "--sample-weight", "s.npy", "--out", "o.npy", "--grad-out", "g.npy", "--batch", 9)
    found = score(capsys, "mse_loss", "x.npy", "t.npy", *flags)
    options = {"weight": weight, "sample_weight": samples}
    np.testing.assert_allclose(found["weight"], (weight * samples[:, None]).sum(), rtol=1e-6)
    np.testing.assert_allclose(found["value"], fl.mse_loss(X, t, **options), rtol=1e-6)
    np.testing.assert_array_equal(np.load("o.npy"), fl.mse_loss(X, t, reduction="none", **options))
    np.testing.assert_allclose(np.load("g.npy"), fl.grad(fl.mse_loss)(X, t, **options), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none", "batchmean"])
def test_reductions(files, capsys, reduction):
    t = RNG.random((50, 4)).astype(np.float32)
    np.save("t.npy", t)
    flags = ("--reduction", reduction, "--batch", 11, "--out", "o.npy", "--grad-out", "g.npy")
    found = score(capsys, "kl_div", "x.npy", "t.npy", *flags)
    if reduction == "none":
        assert found["value"] is None
    else:
        np.testing.assert_allclose(found["value"], fl.kl_div(X, t, reduction=reduction), rtol=1e-5)
    np.testing.assert_array_equal(np.load("o.npy"), fl.kl_div(X, t, reduction="none"))
    np.testing.assert_allclose(np.load("g.npy"), fl.grad(fl.kl_div)(X, t, reduction=reduction), rtol=1e-6)


def test_further_arrays_and_sequences(files, capsys):
    log_probs = np.log(RNG.dirichlet(np.ones(5), (8, 3))).astype(np.float32)
    arrays = {
        "log_probs": log_probs,
        "targets": RNG.integers(1, 5, (3, 2)),
        "input_lengths": np.array([8, 7, 6]),
        "target_lengths": np.array([2, 1, 2]),
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    more = [part for name in ("input_lengths", "target_lengths") for part in (f"--{name}", f"{name}.npy")]
    found = score(capsys, "ctc_loss", "log_probs.npy", "targets.npy", *more, "--out", "o.npy", "--grad-out", "g.npy")
    np.testing.assert_allclose(found["value"], fl.ctc_loss(**arrays), rtol=1e-6)
    np.testing.assert_array_equal(np.load("o.npy"), fl.ctc_loss(**arrays, reduction="none"))
    np.testing.assert_allclose(np.load("g.npy"), fl.grad(fl.ctc_loss)(**arrays), rtol=1e-6)


def test_text_and_the_whole_file_in_one_block(files, capsys):
    assert cli.main(["score", "cross_entropy", "x.npy", "y.npy", "--out", "o.npy"]) == 0
    printed = capsys.readouterr()
    assert f"cross_entropy  {fl.cross_entropy(X, Y):.5f}" in printed.out
    assert "mean of 50 x 4 float32" in printed.out
    assert "wrote o.npy: 50 float32" in printed.out
    assert printed.err == ""  # no bar where stderr is no terminal


def test_one_number(files, capsys):
    np.save("x.npy", np.float32(3))
    assert cli.main(["score", "mse_loss", "x.npy", "x.npy", "--out", "o.npy"]) == 0
    printed = capsys.readouterr().out
    assert "mean of one float32, " in printed
    assert "wrote o.npy: one float32\n" in printed


def test_json_has_options_that_are_infinite(files, capsys):
    np.save("t.npy", X[::-1])
    found = score(capsys, "huber_loss", "x.npy", "t.npy", "--delta", "inf")
    assert found["options"] == {"delta": "inf"}  # a number of Python's JSON alone otherwise
    np.testing.assert_allclose(found["value"], fl.huber_loss(X, X[::-1], delta=np.inf), rtol=1e-6)


def test_numbers_of_another_byte_order(files, capsys):
    np.save("x.npy", X.astype(">f4"))
    np.testing.assert_allclose(
        score(capsys, "cross_entropy", "x.npy", "y.npy")["value"], fl.cross_entropy(X, Y), rtol=1e-6
    )


def test_rows_that_are_all_ignored(files, capsys):
    np.save("y.npy", np.full(50, -100))
    found = score(capsys, "cross_entropy", "x.npy", "y.npy", "--grad-out", "g.npy")
    assert found["value"] is None  # NaN, which JSON cannot say
    assert found["weight"] == 0
    assert not np.load("g.npy").any()


@pytest.mark.skipif(os.name != "posix", reason="names of files are text")
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_has_no_letters_for(files, monkeypatch, encoding):
    name, written = os.fsdecode(b"\xff.npy"), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding))
    assert cli.main(["score", "cross_entropy", "x.npy", "y.npy", "--out", name]) == 0
    assert b"wrote \\udcff.npy: 50 float32" in written.getvalue()
    assert Path(name).exists()


# -- what cannot be scored --------------------------------------------------------------------------------------------


class Hostile:
    """Unpickling this makes a file."""

    def __reduce__(self):
        return open, ("unpickled", "w")


def _damaged_npz():
    np.savez_compressed("a.npz", x=X, y=Y)
    data = bytearray(Path("a.npz").read_bytes())
    data[200:400] = bytes(200)
    Path("a.npz").write_bytes(data)


def _negative_shape():
    data = Path("x.npy").read_bytes()
    Path("x.npy").write_bytes(data.replace(b"(50, 4)", b"(-5, 4)"))


BAD = {
    "negative": (_negative_shape, "x.npy y.npy", "x.npy: no .npy array"),
    "truncated": (lambda: Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:300]), "x.npy y.npy", "truncated"),
    "no bytes": (lambda: Path("x.npy").write_bytes(b""), "x.npy y.npy", "empty"),
    "no rows": (lambda: np.save("x.npy", X[:0]), "x.npy y.npy", "empty"),
    "pickle": (lambda: Path("x.npy").write_bytes(pickle.dumps(Hostile())), "x.npy y.npy", "never read"),
    "objects": (lambda: np.save("x.npy", np.array([Hostile()]), allow_pickle=True), "x.npy y.npy", "object"),
    "member of objects": (lambda: np.savez("a.npz", x=np.array([Hostile()])), "a.npz:x y.npy", "object"),
    "text": (lambda: np.save("x.npy", np.array(["a", "b"])), "x.npy y.npy", "expected numbers"),
    "integers": (lambda: np.save("x.npy", np.ones((50, 4), int)), "x.npy y.npy", "must be"),
    "rows": (lambda: np.save("y.npy", Y[:-1]), "x.npy y.npy", "must have the 50 rows"),
    "label": (lambda: np.save("y.npy", np.full(50, 4)), "x.npy y.npy", "rows 0 to 49 of x.npy: target 4"),
    "missing": (None, "x.npy z.npy", "z.npy: no such file"),
    "missing member": (lambda: np.savez("a.npz", x=X), "a.npz:z y.npy", "no member 'z'; it has x"),
    "no member": (lambda: np.savez("a.npz", x=X), "a.npz y.npy", "a.npz:x"),
    "pipe": (lambda: os.mkfifo("p.npy"), "p.npy y.npy", "p.npy: is no file"),
    "no name of a member": (lambda: np.savez("a.npz", x=X), "a.npz: y.npy", "as in a.npz:x "),
    "no archive": (lambda: Path("a.npz").write_bytes(b"PK"), "a.npz:x y.npy", "no .npz file"),
    "damaged archive": (_damaged_npz, "a.npz:x a.npz:y", "damaged"),
    "format": (lambda: Path("x.csv").write_text("1,2"), "x.csv y.npy", "expected FILE.npy"),
    "no weights": (
        lambda: np.savez("a.npz", w=X[0, :0]),
        "x.npy y.npy --weight a.npz:w",
        "weight must have one entry for each",
    ),
    "option": (None, "x.npy y.npy --gamma 2", "unrecognized arguments: --gamma 2"),
    "value": (None, "x.npy y.npy --label-smoothing 2", "label_smoothing must be a number in [0, 1], got 2.0"),
    "text as value": (None, "x.npy y.npy --label-smoothing x", "invalid float value: 'x'"),
    "reduction": (None, "x.npy y.npy --reduction median", "reduction must be"),
    "nothing to write": (None, "x.npy y.npy --reduction none", "needs --out"),
    "axis": (None, "x.npy y.npy --axis 0", "axis must not be the first"),
    "no name": (None, ["x.npy", "y.npy", "--out", ""], ".npy"),
    "existing": (lambda: Path("o.npy").touch(), "x.npy y.npy --out o.npy", "o.npy: exists; --overwrite"),
    "the input": (None, "x.npy y.npy --out ./x.npy --overwrite", "x.npy: is read as input, and results must not"),
    "no folder": (None, "x.npy y.npy --out no/o.npy", "no/o.npy: cannot be written"),
    "ending": (None, "x.npy y.npy --out o.csv", ".npy"),
    "a link to itself": (lambda: os.symlink("l.npy", "l.npy"), "l.npy y.npy", "l.npy: too many levels"),
    "twice": (None, "x.npy y.npy --out o.npy --grad-out ./o.npy", "the same file"),
    "no target": (None, "x.npy", "required: TARGET"),
    "batch": (None, "x.npy y.npy --batch 0", "positive number of rows"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_scored_is_one_line_and_touches_nothing(files, capsys, name):
    make, args, message = BAD[name]
    if make is not None:
        make()
    words = args.split() if isinstance(args, str) else args
    more = [] if "--out" in words or "--reduction" in words else ["--out", "new.npy"]
    assert message in refused(capsys, "cross_entropy", *words, *more)
    assert not Path("unpickled").exists()


def test_an_axis_of_rows_is_refused_whatever_its_name(files, capsys):
    np.save("p.npy", np.full_like(X, 0.25))
    assert "dim must not be the first" in refused(capsys, "soft_dice_loss", "x.npy", "p.npy", "--dim", "0")


def test_losses_that_are_not_offered(files, capsys):
    assert "did you mean cross_entropy" in refused(capsys, "cros_entropy", "x.npy", "y.npy")
    assert "not scored from files" in refused(capsys, "linear_cross_entropy", "x.npy", "y.npy")
    assert "its values do not belong to rows" in refused(capsys, "info_nce_loss", "x.npy", "x.npy")
    assert "it has no reduction" in refused(capsys, "cosine_similarity", "x.npy", "x.npy")


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(files, capsys):
    np.save("one.npy", X[:, :1])
    assert cli.main(["score", "mse_loss", "x.npy", "one.npy"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: shapes differ and are broadcast")


def test_a_label_that_is_wrong_late_leaves_nothing(files, capsys):
    y = Y.copy()
    y[33] = 9
    np.save("y.npy", y)
    message = refused(capsys, "cross_entropy", "x.npy", "y.npy", "--out", "o.npy", "--batch", 10)
    assert "rows 30 to 39 of x.npy: target 9 at position (33,)" in message


def test_results_that_exist_are_replaced_on_demand(files, capsys):
    np.save("o.npy", np.zeros(3))
    score(capsys, "cross_entropy", "x.npy", "y.npy", "--out", "o.npy", "--overwrite")
    np.testing.assert_array_equal(np.load("o.npy"), fl.cross_entropy(X, Y, reduction="none"))


def test_a_parquet_column_with_a_comma_in_its_name(files, capsys):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a, b": [1.0, 2.0], "a": [3.0, 5.0]}), "comma.parquet")
    assert score(capsys, "mse_loss", "comma.parquet:a, b", "comma.parquet:a")["value"] == 6.5


def test_parquet_columns_of_one_name(files, capsys):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table([arrow.array([1.0]), arrow.array([2.0])], names=["a", "a"])
    parquet.write_table(table, "twice.parquet")
    assert "2 columns 'a'; it has a, a" in refused(capsys, "mse_loss", "twice.parquet:a", "y.npy")


def test_zarr_and_parquet_that_cannot_be_read(files, capsys):
    zarr, arrow = pytest.importorskip("zarr"), pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    group = zarr.open_group("g.zarr", mode="w")
    group.create_array("x", data=X)
    group.create_group("of").create_array("y", data=X)
    Path("e.zarr").mkdir()
    parquet.write_table(arrow.table({"a": ["x"] * 50, "b": [1.0] * 49 + [None]}), "t.parquet")
    Path("d.parquet").write_bytes(Path("t.parquet").read_bytes()[:-20])
    for text, message in {
        "g.zarr": "name an array of it, as in g.zarr:ARRAY (it has x)",
        "g.zarr:of": "as in g.zarr:of/ARRAY (it has y)",
        "x.npy/": "x.npy/: not a directory",
        "e.zarr": "e.zarr: cannot be read by Zarr",
        "n.zarr": "n.zarr: no such file",
        "t.parquet": "name columns, as in t.parquet:a,",
        "t.parquet:": "name columns, as in t.parquet:a,",
        "t.parquet:c": "no column 'c'; it has a, b",
        "t.parquet:a": "expected numbers, got string",
        "d.parquet:a": "no Parquet file, or a damaged one",
        "t.parquet:b": "has missing values",
    }.items():
        target = "y.npy"
        if text == "t.parquet:b":
            np.save("t.npy", np.zeros(50))
            target = "t.npy"
        assert message in refused(capsys, "mse_loss" if target == "t.npy" else "cross_entropy", text, target)


def test_a_zarr_array_of_pickles_is_not_read(files, capsys):
    pytest.importorskip("zarr")
    folder = Path("p.zarr")
    folder.mkdir()
    meta = {
        "zarr_format": 2, "shape": [50], "chunks": [50], "dtype": "<f8", "order": "C", "fill_value": 0.0,
        "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (folder / ".zarray").write_text(json.dumps(meta))
    (folder / "0").write_bytes(pickle.dumps(Hostile()))
    np.save("t.npy", np.zeros(50))
    assert "p.zarr: " in refused(capsys, "mse_loss", "p.zarr", "t.npy")
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(("text", "library"), [("x.zarr", "zarr"), ("x.parquet:a", "pyarrow")])
def test_a_library_that_is_missing_is_named_with_its_extra(files, capsys, monkeypatch, text, library):
    find_spec = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == library else find_spec(name))
    message = refused(capsys, "mse_loss", text, "y.npy")
    assert f"{library} is not installed" in message
    assert "fastloss[files]" in message


# -- blocks, the bar, and the process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 5, 20])
def test_pieces_of_any_lengths_become_blocks(rows):
    array = np.arange(17)
    blocks = list(in_blocks([array[:2], array[2:2], array[2:11], array[11:]], rows))
    assert [len(block) for block in blocks[:-1]] == [rows] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks), array)


def test_no_bar_for_what_is_read_at_once(files, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("ctc_loss", 0) as progress:
        progress.shown = -1.0
        progress.add(0)
    assert "left" not in capsys.readouterr().err


def test_no_bar_where_stderr_is_closed(files, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # fastloss score ... 2>&-
    assert score(capsys, "cross_entropy", "x.npy", "y.npy")["count"] == (Y != -100).sum()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_process_interrupt_it_unless_ignored(name):
    code = f"""
import os, signal
from fastloss.runtime.terminal import ended_like_interrupted
signal.signal(signal.{name}, signal.SIG_DFL)  # whoever runs the tests may ignore it, as nohup does
try:
    with ended_like_interrupted():
        os.kill(os.getpid(), signal.{name})
except KeyboardInterrupt:
    print("interrupted")
assert signal.getsignal(signal.{name}) is signal.SIG_DFL
signal.signal(signal.{name}, signal.SIG_IGN)  # nohup fastloss ...
with ended_like_interrupted():
    os.kill(os.getpid(), signal.{name})
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("interrupted\nwent on\n", "")


def test_the_bar_shows_speed_and_time_left_on_a_terminal_only(capsys, monkeypatch):
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        with Progress("mse_loss", 1000) as progress:
            progress.shown = -1.0
            progress.add(250)
        shown = capsys.readouterr().err
        assert ("25%" in shown and "GB/s" in shown and "left" in shown) if terminal else shown == ""


def _sparse(path, rows, columns, dtype):
    """Make a file of zeros that takes no room on the disk."""
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (rows, columns)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + rows * columns * np.dtype(dtype).itemsize)


def _started(*args):
    return subprocess.Popen(
        [sys.executable, "-m", "fastloss", "score", *args],
        env={**os.environ, "PYTHONPATH": str(Path(fl.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Workers of pytest-xdist ignore the signal, and their children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) if os.name != "nt" else None,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals, sparse files")
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_an_interrupt_is_answered_within_a_second_and_leaves_nothing(files, sent):
    _sparse("big.npy", 1 << 24, 64, np.float32)
    with _started("mse_loss", "big.npy", "big.npy", "--out", "o.npy", "--grad-out", "g.npy") as process:
        deadline = time.monotonic() + 60
        while not list(files.glob(".o.npy*")) and process.poll() is None:
            assert time.monotonic() < deadline, "no result was begun"
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(getattr(signal, sent))
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 4  # on a busy machine; a second on an idle one
    assert process.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in files.iterdir()) == ["big.npy", "x.npy", "y.npy"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_memory_does_not_grow_with_the_file(files):
    _sparse("big.npy", 1 << 24, 32, np.float32)  # 2 GB
    np.save("t.npy", np.zeros(1 << 24, np.int64))
    peak = 0
    with _started("cross_entropy", "big.npy", "t.npy", "--out", "o.npy", "--json") as process:
        while process.poll() is None:
            status = Path(f"/proc/{process.pid}/status").read_text()
            found = [line.split()[1] for line in status.splitlines() if line.startswith("RssAnon:")]
            peak = max(peak, *map(int, found), 0)
            time.sleep(0.01)
        output, errors = process.communicate()
    assert process.returncode == 0, errors
    np.testing.assert_allclose(json.loads(output)["value"], np.log(32), rtol=1e-6)
    assert 0 < peak < 700_000  # KiB: the interpreter, the compiler, and some blocks
    assert np.load("o.npy", mmap_mode="r").shape == (1 << 24,)
