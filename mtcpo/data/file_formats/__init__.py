"""File formats of rows: the table of all formats, and the modules that read and write them."""
