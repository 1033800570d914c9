// The icons of the pages are a font (report.css); the theme asks for this script, which would draw 2,000 of them.
