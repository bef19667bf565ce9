"""Tasks for tests that ask what a training does and not how well it learns."""

from __future__ import annotations

from dataclasses import replace

from mixlab.training import TinyGPT, load_task

# The kinds of layers of chars-gpt, fewer and narrower.
SMALL_GPT = replace(load_task("chars-gpt"), make_model=lambda: TinyGPT(width=32, layers=2))
