"""``python -m wsivit``, and the program ``wsivit``."""

import sys

from wsivit.cli import answered


def main() -> None:
    """Run the command line; interrupts are answered from before its own imports on."""
    with answered(debug="--debug" in sys.argv):
        from wsivit.cli import main as run

        run()


if __name__ == "__main__":
    main()
