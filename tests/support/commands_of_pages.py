"""Commands as pages have them, and what makes them quick enough for tests."""

import shlex


def commands_of(page):
    """The arguments of every `mtcpo` command that a page has on an indented line of its own."""
    commands = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("    mtcpo "):
            commands.append(shlex.split(line, comments=True)[1:])
    return commands


def shortened(command):
    """The tiny model never ends a sentence, so what it writes is bounded; all else is as the README has it."""
    if command[:2] == ["build-prefs", "runs/candidates.jsonl"]:
        return [*command, "--set", "min_margin=0"]  # its candidates are all alike
    limits = {"translate": "max_new_tokens=8", "evaluate": "evaluate.decoding.max_new_tokens=4"}
    return [*command, "--set", limits[command[0]]] if command[0] in limits and "--model" in command else command
