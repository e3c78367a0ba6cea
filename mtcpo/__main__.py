"""`python -m mtcpo`, for launchers that start modules: accelerate launch -m mtcpo train ..."""

from mtcpo.cli.main import main

main()
