"""``upge`` and ``python -m upge.cli``."""

from __future__ import annotations

import sys

from upge.common.errors import UpgeError
from upge.common.optional import require


def main() -> None:
    """Run the command line; without its packages, name the extra that installs them."""
    try:
        for package in ("typer", "rich"):
            require(package, "cli")
    except UpgeError as error:
        print(f"upge: {error}", file=sys.stderr)
        sys.exit(2)
    from upge.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
