"""`python -m speculators`."""

import os.path
import sys

# Python has put the current folder first, whose files would be imported instead of libraries of the same names.
if not sys.flags.safe_path and not os.path.samefile(sys.path[0], os.path.join(os.path.dirname(__file__), "..")):
    del sys.path[0]

from speculators.cli.main import main

main()
