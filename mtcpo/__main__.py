"""`python -m mtcpo`, for launchers that start modules: accelerate launch -m mtcpo train ..."""

import os
import sys

CHECKOUT = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120, pathlib would be imported too early

# `python -m` puts the working directory first on the module path, where a json.py of the user's would stand in for
# Python's own. A checkout that is not installed has to stay there, since this package is found by it.
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != CHECKOUT:  # noqa: PTH109
    del sys.path[0]

from mtcpo.cli.main import main  # noqa: E402

main()
