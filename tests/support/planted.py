"""Modules in the working directory that stand in for others, and leave a file where they are executed."""

STANDARD = ("contextlib", "functools", "json", "pickle", "random", "struct", "threading", "types", "warnings")
"""Modules of Python that a process imports as it starts."""


def plant_modules(folder, *names):
    """Write a module of each name into a folder; return the folder in which those that are executed leave a file."""
    marks = folder.parent / f"marks-of-{folder.name}"
    marks.mkdir()
    for name in names:
        code = f"open({str(marks / name)!r}, 'w').close()\nraise ImportError('planted {name}')\n"
        (folder / f"{name}.py").write_text(code, encoding="utf-8")
    return marks


def executed(marks):
    """The names of the planted modules that were executed."""
    return sorted(path.name for path in marks.iterdir())
