"""Executed notebooks and tables to pages."""
