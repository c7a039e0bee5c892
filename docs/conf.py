"""Settings of the documentation: ``sphinx-build -W -n docs docs/_build`` from the repository's root."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
# The extensions, the package as it lies here whether installed or not, and what reads the results of the benchmark.
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent), str(HERE.parent / "bench")]

import fastloss  # noqa: E402

project = "fastloss"
author = "The fastloss developers"
copyright = "the fastloss developers"
version = release = fastloss.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "mathml", "loss_pages"]
# Generated Markdown is included by pages; what is generated in reStructuredText is a page.
exclude_patterns = ["_build", "losses/*.md"]
nitpicky = True

# Signatures show names and defaults; types stand in the parameters' descriptions.
autodoc_typehints = "none"
numpydoc_show_class_members = False

# Links to a heading of a page, `page.md#heading`, and formulas between dollars.
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

html_theme = "pydata_sphinx_theme"
html_title = f"fastloss {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_sourcelink = False
# Pages without others beside them.
ALONE = ("index", "api", "design", "measurements", "results", "accuracy", "contributing", "changes")
html_sidebars = {page: [] for page in ALONE}
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "tango",
    "pygments_dark_style": "github-dark",
}
