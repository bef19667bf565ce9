"""What the panels that a script draws refuse."""

from __future__ import annotations

import pytest

from mixlab.panels.drawn import NotAllowedError, require_allowed_whole


def test_a_wrong_number_is_not_allowed():
    require_allowed_whole("Panel: k", 3, 1)
    with pytest.raises(NotAllowedError, match=r"Panel: k must be a whole number from 1 up, got 0"):
        require_allowed_whole("Panel: k", 0, 1)
