"""``python -m wsivit``."""

from wsivit.cli import main

main()
