"""The tile walk: a matrix product in blocks, whose tiles the reader moves through a small fast memory one by one.

The browser only draws tiles and counts the bytes of the moves that it is sent; blocks and totals are computed here.
"""

from __future__ import annotations

from typing import Any

import traitlets

from mixlab.formats import Format
from mixlab.matmul import Block, Matmul
from mixlab.panels.drawn import Anything, DrawnPanel, NotAllowedError, require_allowed_whole
from mixlab.panels.scripts import script, stylesheet
from mixlab.reports.tiles import BLOCKS, BlockChoice, chosen_block, tile_walk

SIZES = range(1, 129)
FAST_BYTES = range(256, 2**18 + 1)
_FORMATS = ("fp32", "fp16", "bf16", "e4m3fn", "e2m1fn")
_PRESETS = {  # a, b, accumulator, out
    "fp32": ("fp32", "fp32", "fp32", "fp32"),
    "bf16, sums in fp32": ("bf16", "bf16", "fp32", "bf16"),
    "bf16, sums too": ("bf16", "bf16", "bf16", "bf16"),
    "fp8, sums in fp32": ("e4m3fn", "e4m3fn", "fp32", "bf16"),
}
_PRODUCT = ("m", "n", "k", "a", "b", "accumulator", "out", "fast_bytes", "block")


class TileWalk(DrawnPanel):
    """Shows how a product in blocks moves its tiles between slow and fast memory, and counts the bytes.

        TileWalk(96, 96, 96, a="bf16", b="bf16", out="bf16", fast_bytes=8192)

    Everything the reader can change can also be read and set in Python; its `repr` is its status line.

    Args:
        m: Rows of A and C, from 1 to 128.
        n: Columns of B and C, from 1 to 128.
        k: Columns of A and rows of B, from 1 to 128.
        a: Format of A, or its name.
        b: Format of B, or its name.
        accumulator: Format of the sums in fast memory, or its name.
        out: Format in which C is stored, or its name.
        fast_bytes: Bytes of fast memory, from 256 to 262,144.
        block: "square" for the best block of three square tiles, "slices" for the best with slices of depth 1; or a
            `Block`, or its sizes (m, n, k).

    Attributes:
        m, n, k, a, b, accumulator, out, fast_bytes: As above; formats as names.
        block: "square", "slices", or the sizes of a block.
        position: How many moves the page shows as done, from 0 to all that are drawn; more means all.
        last_error: The error of the latest change, or None if it succeeded. Refused values from the browser count too.
            It is shown in red.

    Raises:
        ValueError: If a value is not allowed, or the block does not fit in fast memory; also when an attribute is set.

    >>> panel = TileWalk(96, 96, 96, a="bf16", b="bf16", out="bf16", fast_bytes=8192)
    >>> panel.status[:97]
    '96 x 96 x 96, bf16 x bf16 + fp32 -> bf16, in blocks of 32 x 32 x 32 with 8,192 bytes of fast memo'
    """

    _esm = script("tile_walk.js")
    _css = stylesheet("tile_walk.css")

    m = Anything(96).tag(sync=True)
    n = Anything(96).tag(sync=True)
    k = Anything(96).tag(sync=True)
    a = Anything("bf16").tag(sync=True)
    b = Anything("bf16").tag(sync=True)
    accumulator = Anything("fp32").tag(sync=True)
    out = Anything("bf16").tag(sync=True)
    fast_bytes = Anything(8192).tag(sync=True)
    block = Anything("square").tag(sync=True)
    position = Anything(0).tag(sync=True)
    _choices = traitlets.Dict().tag(sync=True)
    _drawing = traitlets.Dict().tag(sync=True)

    def __init__(
        self,
        m: int = 96,
        n: int = 96,
        k: int = 96,
        *,
        a: Format | str = "bf16",
        b: Format | str = "bf16",
        accumulator: Format | str = "fp32",
        out: Format | str = "bf16",
        fast_bytes: int = 8192,
        block: BlockChoice | tuple[int, int, int] = "square",
    ) -> None:
        formats = {"a": a, "b": b, "accumulator": accumulator, "out": out}
        super().__init__(m=m, n=n, k=k, **formats, fast_bytes=fast_bytes, block=block)
        self._choices = {
            "sizes": [SIZES[0], SIZES[-1]],
            "formats": list(_FORMATS),
            "presets": [[name, list(names)] for name, names in _PRESETS.items()],
            "blocks": list(BLOCKS.items()),
        }
        self._shown: object = None
        self._redraw()
        self.observe(self._guard(self._changed), list(_PRODUCT))

    @property
    def status(self) -> str:
        """What the drawing shows, in words."""
        return str(self._drawing["sentence"])

    @property
    def matmul(self) -> Matmul:
        """The product."""
        return Matmul(self.m, self.n, self.k, self.a, self.b, self.accumulator, self.out)

    @traitlets.validate("m", "n", "k")
    def _check_size(self, proposal: traitlets.Bunch) -> int:
        require_allowed_whole(f"TileWalk: {proposal.trait.name}", proposal.value, SIZES[0], SIZES[-1])
        return int(self._fitting(proposal))

    @traitlets.validate("a", "b", "accumulator", "out")
    def _check_format(self, proposal: traitlets.Bunch) -> str:
        return str(self._fitting(proposal))

    @traitlets.validate("fast_bytes")
    def _check_fast_bytes(self, proposal: traitlets.Bunch) -> int:
        require_allowed_whole("TileWalk: fast_bytes", proposal.value, FAST_BYTES[0], FAST_BYTES[-1])
        return int(self._fitting(proposal))

    @traitlets.validate("block")
    def _check_block(self, proposal: traitlets.Bunch) -> str | list[int]:
        self._fitting(proposal)
        block = _block(proposal.value)
        return [block.m, block.n, block.k] if isinstance(block, Block) else block

    @traitlets.validate("position")
    def _check_position(self, proposal: traitlets.Bunch) -> int:
        require_allowed_whole("TileWalk: position", proposal.value, 0)
        return min(int(proposal.value), len(self._drawing["moves"])) if self._drawing else 0

    def _fitting(self, proposal: traitlets.Bunch) -> Any:
        """Returns a proposed value that goes with all others."""
        wanted = {name: getattr(self, name) for name in _PRODUCT} | {proposal.trait.name: proposal.value}
        block, fast_bytes = _block(wanted.pop("block")), wanted.pop("fast_bytes")
        try:
            chosen_block(Matmul(**wanted), fast_bytes, block)
        except (TypeError, ValueError) as error:
            raise NotAllowedError(f"TileWalk: {error}") from None
        return proposal.value

    def _redraw(self) -> None:
        shown = tuple(getattr(self, name) for name in _PRODUCT)
        if shown == self._shown:  # several values came at once
            return
        before = len(self._drawing.get("moves", ()))
        self._drawing = tile_walk(self.matmul, self.fast_bytes, _block(self.block))
        self._shown = shown
        if before:
            self.position = self.position * len(self._drawing["moves"]) // before

    def _changed(self, _change: object) -> None:
        self._redraw()


def _block(choice: Any) -> BlockChoice:
    """Returns what a text, a Block or three numbers say.

    Raises:
        NotAllowedError: If it is anything else.
    """
    if isinstance(choice, Block):
        return choice
    if choice in ("square", "slices"):
        return "square" if choice == "square" else "slices"
    if not isinstance(choice, list | tuple) or len(choice) != 3:
        raise NotAllowedError(
            f"TileWalk: block must be {', '.join(map(repr, BLOCKS))} or three sizes (m, n, k), got {choice!r:.60}"
        )
    for name, size in zip("mnk", choice, strict=True):
        require_allowed_whole(f"TileWalk: block {name}", size, SIZES[0], SIZES[-1])
    return Block(*choice)
