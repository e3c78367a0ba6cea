"""Count what the style guide of this project sets targets for, for each package and for the whole.

    python tools/code_figures.py [FOLDER]

Printed: lines, comprehensions and comments per 100 lines of code, the 90th percentile of the lines of a function, and
the share of parameters and results that have types. A line of code is one that is neither empty nor a comment.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Figures:
    """What was counted in some modules. function_lines: of each function."""

    counts: Counter[str] = field(default_factory=Counter)
    function_lines: list[int] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Count one module."""
        lines = text.splitlines()
        comments = [line for line in lines if line.strip().startswith("#") or "  # " in line]
        code = [line for line in lines if line.strip() and not line.strip().startswith("#")]
        self.counts.update(modules=1, lines=len(lines), comments=len(comments), code=len(code))
        for node in ast.walk(ast.parse(text)):
            self.counts["comprehensions"] += isinstance(node, COMPREHENSIONS)
            if isinstance(node, FUNCTIONS):
                self._add_function(node)

    def _add_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        assert node.end_lineno is not None
        self.function_lines.append(node.end_lineno - node.lineno + 1)
        arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        annotations = [argument.annotation for argument in arguments if argument.arg not in ("self", "cls")]
        annotations.append(node.returns)
        self.counts["typed"] += sum(annotation is not None for annotation in annotations)
        self.counts["to_type"] += len(annotations)

    def row(self, name: str) -> str:
        """Return one line of the table."""
        per_hundred = 100 / max(1, self.counts["code"])
        lines = sorted(self.function_lines)
        percentile = lines[len(lines) * 9 // 10] if lines else 0
        return (
            f"{name:14} {self.counts['modules']:7} {self.counts['lines']:6} "
            f"{self.counts['comprehensions'] * per_hundred:14.1f} {self.counts['comments'] * per_hundred:8.1f} "
            f"{percentile:13} {100 * self.counts['typed'] / max(1, self.counts['to_type']):6.1f} %"
        )


def main() -> None:
    """Print the table."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parents[1] / "mtcpo")
    packages: dict[str, Figures] = {}
    whole = Figures()
    for path in sorted(root.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(root).parts
        packages.setdefault(parts[0] if len(parts) > 1 else "(root)", Figures()).add(text)
        whole.add(text)
    print(f"{'package':14} modules  lines comprehensions comments function p90  typed")
    for name, figures in packages.items():
        print(figures.row(name))
    print(whole.row("all"))


if __name__ == "__main__":
    main()
