"""Tests of pgratchet. README.md beside this file says how to run them."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout that is tested."""
