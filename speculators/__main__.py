"""`python -m speculators`."""

from speculators.cli.main import main

main()
