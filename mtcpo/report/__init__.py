"""What people read: the table in the terminal, Markdown and LaTeX tables, the HTML pages and their plots."""
