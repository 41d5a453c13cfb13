"""The settings of Sphinx for the site that ``tox -e docs`` builds from these pages.

The pages are read on a code host as well, so they link to each other by the names of their files.
``_ext/links.py`` makes links within the site of those.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent))

from dogpile_fs.version import VERSION  # noqa: E402

project = "dogpile_fs"
author = "the authors of dogpile_fs"
version = release = VERSION
language = "en"

extensions = ["sphinx.ext.autodoc", "sphinx_copybutton", "links", "names", "words"]
exclude_patterns = ["_build", "_ext"]

nitpicky = True
# Signatures show types by their last names, as the source does.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = False
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

pygments_style = "friendly"
pygments_dark_style = "github-dark"
highlight_language = "none"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

html_theme = "furo"
html_title = f"dogpile_fs {VERSION}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
