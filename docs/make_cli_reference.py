"""Write docs/cli.md from the commands themselves; with ``-`` print it instead."""

from __future__ import annotations

import sys
from pathlib import Path

from wsivit.cli.app import EPILOGUE, VERBS, build

HEADER = "<!-- made by docs/make_cli_reference.py: do not edit -->\n\n"


def main() -> None:
    text = (
        HEADER
        + build(called=VERBS).generate_docs(recursive=True, include_hidden=False, heading_level=1).rstrip()
        + f"\n\n## Exit codes\n\n{EPILOGUE}\n"
    )
    if sys.argv[1:] == ["-"]:
        sys.stdout.write(text)
    else:
        Path(__file__).with_name("cli.md").write_text(text)


if __name__ == "__main__":
    main()
