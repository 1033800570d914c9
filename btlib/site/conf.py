"""Sphinx settings of the report; `btlib.site.build` adds title and banner, which depend on the profile."""

from docutils import nodes

from btlib.site import build as report

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
myst_enable_extensions = ["colon_fence", "deflist"]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "home_page_in_toc": True,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "search_bar_text": "Search this report",
    "extra_footer": "Not a medical device: nothing here is fit for diagnosis.",
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
html_math_renderer = "source"


def show_source(translator, node):
    """Show TeX as typed: MathJax would come from a content network, and the study needs no formula."""
    block = isinstance(node, nodes.math_block)
    translator.body.append(translator.starttag(node, "div" if block else "span", CLASS="math"))
    translator.body.append(f"<code>{translator.encode(node.astext())}</code></{'div' if block else 'span'}>")
    raise nodes.SkipNode


def setup(app):
    app.add_html_math_renderer("source", (show_source, None), (show_source, None))
    app.connect("html-page-context", report.polish)
