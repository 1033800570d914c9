"""Sphinx settings of the report; `btlib.site.build` adds title, banner and footer, which depend on the profile."""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.search.en import SearchEnglish

KEPT_PAGES = "real/"

project = "Brain tumour classification with EfficientNet: a reproduction"
author = "the btlib study"
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["_build"]

nb_execution_mode = "off"
# papermill's log lines are for whoever runs the study; they stay in the executed notebooks.
nb_output_stderr = "remove"
# Widgets would need scripts from a content network: the report shows each cell's static picture instead.
nb_ipywidgets_js = {}
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist", "html_image"]

templates_path = ["_templates"]
html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "search_bar_text": "Search this report",
    "footer_content_items": "extra-footer.html",
}
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_css_files = ["report.css"]
html_js_files = [("report.js", {"defer": "defer"})]
html_extra_path = ["extra"]
html_use_index = False
html_domain_indices = False
html_copy_source = False
# A search result's excerpt is fetched, and a page opened from the file system may not fetch.
html_show_search_summary = False


class SearchNumbers(SearchEnglish):
    """English, and decimals as one word: whoever looks for 99.35 finds it."""

    _word_re = re.compile(r"\d+\.\d+|\w+")
    js_splitter_code = r"""
var splitQuery = (query) => query.match(/\d+\.\d+|[\p{Letter}\p{Number}_]+/gu) ?? [];
"""


def lazily(app, doctree, docname):
    """Let a browser load a picture when it comes near."""
    for picture in doctree.findall(nodes.image):
        picture["loading"] = "lazy"


def kept_page_links(app, doctree):
    """Let links of the kept results to what lies elsewhere in the repository, and not on the site, be plain text."""
    for link in list(doctree.findall(addnodes.pending_xref)) if app.env.docname.startswith(KEPT_PAGES) else []:
        if "/" in link["reftarget"]:
            link.replace_self(link.children)


def kept_page_banner(app, pagename, templatename, context, doctree):
    """Take the banner on made-up slices from the one page that shows real ones, whatever the report is of."""
    if pagename.startswith(KEPT_PAGES):
        context["theme_announcement"] = ""


def setup(app):
    app.add_search_language(SearchNumbers)
    app.connect("doctree-read", kept_page_links)
    app.connect("doctree-resolved", lazily)
    app.connect("html-page-context", kept_page_banner)
