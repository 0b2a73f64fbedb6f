"""The demo, the table of results and the figures, made by the project's own programs."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
