"""Tests of the manual: its commands run, its output is what they print, and its tables equal the code."""

import sys

from tests import ROOT

if str(ROOT / "ops") not in sys.path:  # `python -m tests.docs` runs without pytest's settings
    sys.path.insert(0, str(ROOT / "ops"))
