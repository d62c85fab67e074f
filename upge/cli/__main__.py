"""``python -m upge.cli``."""

from upge.cli.main import main

main()
