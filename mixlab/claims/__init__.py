"""Claims about mixed-precision training, each with theory, a measurement and a verdict."""

__all__ = []
