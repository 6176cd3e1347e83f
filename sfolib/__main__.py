import sys

from sfolib.cli import main

sys.exit(main())
