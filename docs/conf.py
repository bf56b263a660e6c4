"""Configuration of the documentation site."""

project = "DistZero"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "DistZero"
html_show_copyright = False
smartquotes = False  # docstrings quote code

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

default_role = "code"  # docstrings have names in single backticks
autodoc_member_order = "bysource"
autodoc_type_aliases = {name: name for name in ("ColumnLike", "RowLike", "Key")}
python_use_unqualified_type_names = True
