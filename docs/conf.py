"""The documentation site: `sphinx-build -W --keep-going -c docs . build/site`, then open build/site/index.html.

With TORCHFLAVA_NOTEBOOKS=force in the environment the notebooks are run and shown with their pictures.

The source folder is the checkout, so that a link from one file to another is right on the site as it is in the repository:
what is a page leads to the page, any other file is handed out as it stands. A page that the navigation in docs/index.md
lacks, a link that leads nowhere and a heading that is not there are warnings, which `-W` makes errors.
"""

import os

from docutils.nodes import Element
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

from torchflava import __version__

project = "torchflava"
author = "The torchflava authors"
copyright = "The torchflava authors, BSD 3-Clause"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/*.md", "CHANGELOG.md", "CONTRIBUTING.md"]
exclude_patterns = [".*", "build", "dist", "runs", "data", "tests", "recipes", "torchflava", "**/.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "attrs_block", "attrs_inline"]
myst_heading_anchors = 4
nb_execution_mode = os.environ.get(
    "TORCHFLAVA_NOTEBOOKS", "off"
)  # force: run them, two minutes; they are kept without pictures
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
suppress_warnings = ["ref.python"]  # a bare name that several classes have is no link

default_role = "py:obj"  # `name` in a docstring is a name, and a link where it has a page
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_maximum_signature_line_length = 100
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "pydata_sphinx_theme"
html_title = "torchflava"
html_logo = "site/static/logo.svg"
html_favicon = "site/static/logo.svg"
html_static_path = ["site/static"]
templates_path = ["site/templates"]
html_sidebars = {"**": ["whole-nav.html"]}
html_css_files = ["site.css"]
html_js_files = ["copy.js"]
html_extra_path = ["site/redirect"]  # index.html at the top, which leads to docs/index.html
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "torchflava"},
    "navbar_center": [],
    "navbar_end": ["theme-switcher"],
    "navbar_align": "left",
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def in_another_room(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: Element) -> Element | None:
    """A link for a name that a docstring says without its room, where just one room has it."""
    name = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not name.isidentifier():
        return None
    objects = env.domains.python_domain.objects
    kinds = ("class", "function", "data")  # and not the names of the files that they stand in
    found = [
        at for at, known in objects.items() if at.endswith(f".{name}") and known.objtype in kinds and not known.aliased
    ]
    if len(found) != 1:
        return None
    known = objects[found[0]]
    return make_refnode(app.builder, node["refdoc"], known.docname, known.node_id, content, found[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", in_another_room)
