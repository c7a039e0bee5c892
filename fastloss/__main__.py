"""``python -m fastloss``: the same as the command ``fastloss``."""

from fastloss.cli import main

raise SystemExit(main())
