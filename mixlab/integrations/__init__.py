"""Callbacks for the trainers of others: what a training loses to its formats, every n-th step, and its memory."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
