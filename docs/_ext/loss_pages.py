"""Writes pages into ``docs/losses`` before each build: one for each loss, their list, and the names of others.

What a page says comes from the loss's docstring, its entry in the registry, the loss itself (the picture, and the
gradient where it jumps), the newest results of the benchmark, and the table of docs/accuracy.md where there is one.
"""

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import loss_curves
import readme
from loss_curves import Kink, Sketch
from numpydoc.docscrape import FunctionDoc
from sphinx.application import Sphinx

import fastloss as fl
from fastloss import custom
from fastloss.bench.results import read
from fastloss.define.record import Loss
from fastloss.define.registry import LOSSES

CURVATURE = {"exact": "the diagonal of the Hessian", "zero": "zero almost everywhere", None: "none"}
# The libraries of docs/names.json: their title, what is true of all their names, and the module left out of them.
LIBRARIES = {
    "torch": (
        "torch",
        "Functions of ``torch.nn.functional``. The classes of ``torch.nn`` have the same names here.",
        "torch.nn.functional.",
    ),
    "jax": (
        "optax, jax",
        'Functions of ``optax``. They return one value for each sample, ``reduction="none"``.',
        "optax.",
    ),
    "sklearn": ("scikit-learn", "Functions of ``sklearn.metrics``. They take the targets first.", "sklearn.metrics."),
    "keras": (
        "Keras",
        "Classes of ``keras.losses``. They take the targets first, and clip probabilities to [1e-7, 1 - 1e-7].",
        "keras.losses.",
    ),
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in (head, *rows):
        cells = [r"\-" if cell == "-" else cell for cell in row]
        lines += [f"   * - {cells[0]}", *(f"     - {cell}" for cell in cells[1:])]
    return "\n".join(lines)


def heading(text: str, line: str = "-") -> str:
    """Return a heading, with its line."""
    return f"{text}\n{line * len(text)}"


# -- one loss ---------------------------------------------------------------------------------------------------------


def page(loss: Loss, accuracy: Sequence[str], folder: Path) -> str:
    """Return the page of a loss, whose picture is written into the folder."""
    said = FunctionDoc(loss.function)
    sketch = loss_curves.sketch_of(loss)
    kinks = loss_curves.kinks(loss, sketch) if sketch is not None else []
    parts = [
        heading(loss.name, "="),
        ".. currentmodule:: fastloss",
        facts(loss, said),
        picture(loss, sketch, kinks, folder) if sketch is not None else "",
        heading("Reference"),
        f".. autofunction:: {loss.name}",
        *[f".. py:class:: {one.__name__}{signature(one)}\n\n   {CLASS}" for one in loss.modules],
        options(loss, said),
        jumps(sketch, kinks) if kinks else "",
        errors(loss, accuracy),
        speed(loss),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


CLASS = (
    "The options, bound. An instance is called with the arrays; it has ``grad``, ``value_and_grad``, ``grad_and_hess``."
)


def signature(one: type) -> str:
    """Return the signature of a class, without types."""
    found = inspect.signature(one)
    plain = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(inspect.Signature(plain))


def facts(loss: Loss, said: FunctionDoc) -> str:
    """Return what is true of a loss as a field list."""
    mean = next((" ".join(p.desc) for p in said["Parameters"] if p.name == "reduction"), "")
    natural = ", ".join(f"``{name}``" for name in loss.wrt)
    others = ", ".join(f"``{name}``" for name in loss.differentiable if name not in loss.wrt)
    lines = [
        " ".join(said["Summary"]),
        "",
        f":Gradient: with respect to {natural}" + (f"; on request to {others}" if others else ""),
        f":Second derivative: {CURVATURE[loss.hessian]}",
        f":Mean: {mean}" if mean else "",
    ]
    return "\n".join(lines).rstrip()


def picture(loss: Loss, sketch: Sketch, kinks: Sequence[Kink], folder: Path) -> str:
    """Draw a loss; return what shows the picture, for light and for dark pages."""
    loss_curves.draw(loss, sketch, kinks, folder / f"{loss.name}.svg", folder / f"{loss.name}-dark.svg")
    text = f"Value of {loss.name}, and its gradient with respect to {sketch.moved}"
    light = f".. image:: {loss.name}.svg\n   :class: only-light\n   :alt: {text}"
    return f"{light}\n\n{light.replace('.svg', '-dark.svg').replace('only-light', 'only-dark')}"


def options(loss: Loss, said: FunctionDoc) -> str:
    """Return the table of options."""
    parameters = [p for p in inspect.signature(loss.function).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if not parameters:
        return ""
    described = {name.strip(): " ".join(p.desc) for p in said["Parameters"] for name in p.name.split(",")}
    rows = []
    for p in parameters:
        default = "required" if p.default is p.empty else f"``{getattr(p.default, '__name__', repr(p.default))}``"
        domain = loss.options[p.name].text if p.name in loss.options else "-"
        rows.append([f"``{p.name}``", default, domain, described.get(p.name) or "-"])
    return f"{heading('Options')}\n\n{table(['option', 'default', 'values', 'meaning'], rows)}"


def jumps(sketch: Sketch, kinks: Sequence[Kink]) -> str:
    """Return the gradient where it jumps, as the loss computes it."""
    rows = [[k.label or "-", f"{k.s:g}", *(f"{g + 0.0:.3g}" for g in (k.before, k.at, k.after))] for k in kinks]
    head = ["curve", sketch.s, "before", "at the kink", "after"]
    text = "The gradient jumps at the kinks of the picture. There it is what the column in the middle says."
    return f"{heading('Gradient at kinks')}\n\n{text}\n\n{table(head, rows)}"


def errors(loss: Loss, accuracy: Sequence[str]) -> str:
    """Return the rows of docs/accuracy.md that are about a loss."""
    split = [[cell.strip() for cell in line.strip("| ").split("|")] for line in accuracy]
    rows = [row for row in split if row[0].startswith(f"`{loss.name}`")]
    if not rows:
        return ""
    head = next(row for row in split if row[0] == "loss")
    rows = [[re.sub(r"`([^`]+)`", r"``\1``", row[0]), *row[1:]] for row in rows]
    text = "Worst errors met, in units in the last place. :doc:`How they were found </accuracy>`."
    return f"{heading('Accuracy')}\n\n{text}\n\n{table(head, rows)}"


def speed(loss: Loss) -> str:
    """Return the medians of a loss, of the newest results for each device; nothing without one."""
    parts = []
    for device in ("cpu", "cuda"):
        path = readme.newest_results(device)
        rows = [row for row in read(path) if (row["mode"], row["loss"]) == ("sizes", loss.name)] if path else []
        if not rows:
            continue
        times: dict[str, dict[str, float]] = defaultdict(dict)
        for row in rows:
            times[row["shape"]][row["contender"]] = float(row["median_ms"])
        columns = [name for name in readme.LABELS if any(name in one for one in times.values())]
        cells = [[s, *(f"{one[c]:.3g}" if c in one else "-" for c in columns)] for s, one in times.items()]
        processor = rows[0]["machine"] + (f", {rows[0]['threads']} threads" if device == "cpu" else "")
        text = (
            f"Value and gradient in float32, medians in milliseconds: {processor}, {rows[0]['date']}, ``{path.name}``."
        )
        parts.append(f"{text}\n\n{table(['shape', *(readme.LABELS[c] for c in columns)], cells)}")
    if not parts:
        return ""
    return "\n\n".join([heading("Speed"), *parts, "The columns, and how they are measured: :doc:`/measurements`."])


# -- all of them ------------------------------------------------------------------------------------------------------


def index(losses: Sequence[Loss]) -> str:
    """Return the list of losses."""
    rows = [
        [
            f":doc:`{loss.name} <{loss.name}>`",
            " ".join(FunctionDoc(loss.function)["Summary"]),
            ", ".join(f"``{name}``" for name in loss.wrt),
            CURVATURE[loss.hessian],
        ]
        for loss in losses
    ]
    listed = table(["loss", "what it is", "gradient with respect to", "second derivative"], rows)
    names = "\n".join(f"   {name}" for name in ("names", *(loss.name for loss in losses)))
    return "\n\n".join([heading("Losses", "="), INDEX, listed, f".. toctree::\n   :hidden:\n\n{names}"]) + "\n"


INDEX = """\
Every loss is a function of ``fastloss`` with a page of its own, and most have a class of torch's name beside it.
:doc:`names` says what they are called in other libraries."""


def names(libraries: dict[str, list[dict[str, str]]]) -> str:
    """Return the tables of names in other libraries."""
    parts = [heading("Names in other libraries", "="), NAMES]
    for library, rows in libraries.items():
        title, text, prefix = LIBRARIES[library]
        cells = [
            [
                f"``{row['theirs'].removeprefix(prefix)}``",
                f":doc:`{row['ours']}`" + (f": {row['how']}" if "how" in row else ""),
            ]
            for row in rows
        ]
        parts += [heading(title), text, table([title, "fastloss, and how to get the same number"], cells)]
    return "\n\n".join(parts) + "\n"


NAMES = """\
Where nothing is said the same arrays give the same number. Names stand without the module that the text before their
table names, or in full."""


def functions() -> str:
    """Return directives for the public names that are neither losses, nor their classes, nor on a page already."""
    elsewhere = {one.__name__ for loss in LOSSES.values() for one in loss.modules} | set(LOSSES) | ON_PAGES
    found = {name: getattr(fl, name) for name in fl.__all__ if name not in elsewhere}
    lines = [".. currentmodule:: fastloss", ""]
    for name, one in found.items():
        lines += (
            [f".. autoclass:: {name}", "   :members:", ""]
            if inspect.isclass(one)
            else [f".. autofunction:: {name}", ""]
        )
    return "\n".join(lines)


# Public names that docs/api.md has itself.
ON_PAGES = {
    "AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss", "LinearCrossEntropyOptions", "__version__", "grad",
    "grad_and_hess", "value_and_grad",
}  # fmt: skip


def domains() -> str:
    """Return the table of the domains that ``fastloss.custom`` offers, in Markdown."""
    found = {name: getattr(custom, name) for name in custom.__all__}
    rows = [f"| `{name}` | {one.text} |" for name, one in found.items() if isinstance(one, custom.Domain)]
    return "\n".join(["| domain | values |", "| --- | --- |", *rows, ""])


def summary() -> str:
    """Return the results of the README, as a part of a page of docs/."""
    text = readme.README.read_text("utf-8").partition("<!-- results -->")[2].partition("<!-- end of results -->")[0]
    return text.replace("](bench/results/README.md)", "](results.md)").replace("](bench/", "](../bench/")


def details() -> str:
    """Return the tables of every loss and machine, as a page of docs/."""
    text = re.sub(r"\]\((?=[\w-]+\.)", "](../bench/results/", readme.details())
    return text.replace("](../../docs/", "](")


def write_pages(app: Sphinx) -> None:
    """Write all pages, those alone that are not there yet as they should be; remove those of losses that are gone."""
    source = Path(app.srcdir)
    folder = source / "losses"
    folder.mkdir(exist_ok=True)
    accuracy = source / "accuracy.md"
    lines = accuracy.read_text("utf-8").splitlines() if accuracy.exists() else []
    losses = [loss for name, loss in sorted(LOSSES.items()) if name in fl.__all__]
    pages = {f"{loss.name}.rst": page(loss, [line for line in lines if line[:1] == "|"], folder) for loss in losses}
    pages["index.rst"] = index(losses)
    pages["names.rst"] = names(json.loads((source / "names.json").read_text("utf-8")))
    pages |= {"functions.inc": functions(), "domains.md": domains(), "summary.md": summary(), "details.md": details()}
    for old in folder.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages when the build begins."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
