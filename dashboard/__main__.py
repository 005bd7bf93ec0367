"""`python -m dashboard`: serve the pages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dashboard.serve import main

sys.exit(main(os.environ, Path.cwd()))
