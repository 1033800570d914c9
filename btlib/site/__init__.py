"""Executed notebooks, tables and figures as pages: templates, style, and tables as people read them."""
