"""Matrix products: bytes moved, speed limits and rounding errors, predicted."""

__all__ = []
