"""One function a figure: table in, Figure out."""
