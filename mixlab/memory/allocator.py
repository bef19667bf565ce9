"""A model of CUDA's caching allocator, and the memory that it reserves for the allocations of a trace."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from mixlab.memory.categories import Phase
from mixlab.memory.traced_step import Trace

_MIB = 2**20
_GRANULE = 512  # sizes are rounded up to a multiple of these bytes
_SMALL = _MIB  # up to this size, blocks come from segments of their own
_SMALL_SEGMENT = 2 * _MIB
_MEDIUM, _MEDIUM_SEGMENT = 10 * _MIB, 20 * _MIB  # for blocks below the first, segments of the second
_LARGE_GRANULE = 2 * _MIB  # segments of larger blocks are multiples of this


@dataclass(frozen=True)
class Replay:
    """The allocator's memory after a replay.

    Attributes:
        reserved_bytes: Bytes of all segments at the end, which is also the most, since none is given back.
        allocated_bytes: The most bytes allocated at any time, as `torch.cuda.max_memory_allocated` counts them: the
            rest of a block counts too if it is too small to be split off.
        segments: Number of segments taken from the GPU.
        phase_peaks: For a trace, the most bytes allocated in each phase.
        after: For a trace, the bytes allocated at the end of each phase.
    """

    reserved_bytes: int
    allocated_bytes: int
    segments: int
    phase_peaks: dict[Phase, int] = field(default_factory=dict)
    after: dict[Phase, int] = field(default_factory=dict)

    @property
    def fragmentation(self) -> float:
        """The share of the reserved bytes that was never in use at the same time."""
        return 1 - self.allocated_bytes / self.reserved_bytes if self.reserved_bytes else 0.0


def replay_trace(trace: Trace) -> Replay:
    """Replays a trace through a model of CUDA's caching allocator, to the end of the second step.

    The model follows PyTorch's allocator with its default settings (c10/cuda/CUDACachingAllocator.cpp). It leaves out
    workspaces, other streams, garbage collection, expandable segments and a full GPU.

    Args:
        trace: A trace as on CUDA.
    """
    found, levels = _replayed(trace.events())
    phase_peaks: dict[Phase, int] = {}
    for phase, first, last in trace.spans:
        phase_peaks[phase] = max(phase_peaks.get(phase, 0), *levels[first : last + 1])
    return replace(found, phase_peaks=phase_peaks, after={phase: levels[last] for phase, _, last in trace.spans})


def replay_events(events: Iterable[tuple[int, int]]) -> Replay:
    """Replays allocations and frees through a model of CUDA's caching allocator.

    Sizes are rounded up to a multiple of 512 bytes. The allocator takes the smallest free block that is large enough,
    and of several such blocks the one at the lowest address. The rest becomes a block of its own if it has at least 512
    bytes (for sizes up to 1 MiB) or more than 1 MiB (for others). If no free block is large enough, the allocator takes
    a segment from the GPU: 2 MiB for sizes up to 1 MiB, 20 MiB for sizes below 10 MiB, else the size rounded up to a
    multiple of 2 MiB. A freed block is merged with its free neighbours in the segment.

    >>> replay_events([(0, 1000), (1, 3_000_000), (0, -1000), (2, 4_000_000)])
    Replay(reserved_bytes=23068672, allocated_bytes=7000576, segments=2, phase_peaks={}, after={})

    Args:
        events: (number, bytes) for an allocation, (number, -bytes) for its free, in order.

    Raises:
        ValueError: If a number is freed without an allocation or allocated twice, or has 0 bytes.
    """
    return _replayed(events)[0]


def _replayed(events: Iterable[tuple[int, int]]) -> tuple[Replay, list[int]]:
    """Returns the replay, and the bytes allocated before the first event and after each."""
    memory = _Memory()
    blocks: dict[int, _Block] = {}
    allocated, levels = 0, [0]
    for number, size in events:
        if size > 0 and number not in blocks:
            blocks[number] = memory.take(-(-size // _GRANULE) * _GRANULE)
            allocated += blocks[number].size
        elif size < 0 and number in blocks:
            block = blocks.pop(number)
            allocated -= block.size
            memory.give(block)
        else:
            raise ValueError(
                f"replay_events: ({number}, {size}) must allocate a number that is not alive, with bytes from 1 up, or "
                "end one that is, with bytes below 0"
            )
        levels.append(allocated)
    return Replay(memory.reserved, max(levels), memory.segments), levels


@dataclass(eq=False)
class _Block:
    """A part of a segment, linked to its neighbours in the segment."""

    address: int
    size: int
    small: bool
    before: _Block | None = None
    after: _Block | None = None
    free: bool = False


@dataclass
class _Memory:
    """Segments and their free blocks, by size and address, for small and for large sizes."""

    reserved: int = 0
    segments: int = 0
    _end: int = 0  # the address of the next segment
    _free: dict[bool, list[tuple[int, int]]] = field(default_factory=lambda: {True: [], False: []})
    _at: dict[int, _Block] = field(default_factory=dict)  # free blocks by address

    def take(self, size: int) -> _Block:
        small = size <= _SMALL
        place = bisect_left(self._free[small], (size, 0))
        if place < len(self._free[small]):
            block = self._remove(self._at[self._free[small][place][1]])
        else:
            block = self._segment(_segment_size(size), small)
        rest = block.size - size
        if rest >= _GRANULE if small else rest > _SMALL:
            self._add(_Block(block.address + size, rest, small, block, block.after))
            block.size = size
        return block

    def give(self, block: _Block) -> None:
        for neighbour in (block.before, block.after):
            if neighbour is not None and neighbour.free:
                self._remove(neighbour)
                block.address = min(block.address, neighbour.address)
                block.size += neighbour.size
                if neighbour is block.before:
                    block.before = neighbour.before
                else:
                    block.after = neighbour.after
        self._add(block)

    def _segment(self, size: int, small: bool) -> _Block:
        block = _Block(self._end, size, small)
        self._end += size
        self.reserved += size
        self.segments += 1
        return block

    def _add(self, block: _Block) -> None:
        """Adds a free block, and links it to its neighbours."""
        if block.before is not None:
            block.before.after = block
        if block.after is not None:
            block.after.before = block
        block.free = True
        self._at[block.address] = block
        insort(self._free[block.small], (block.size, block.address))

    def _remove(self, block: _Block) -> _Block:
        free = self._free[block.small]
        del free[bisect_left(free, (block.size, block.address))]
        del self._at[block.address]
        block.free = False
        return block


def _segment_size(size: int) -> int:
    if size <= _SMALL:
        return _SMALL_SEGMENT
    return _MEDIUM_SEGMENT if size < _MEDIUM else -(-size // _LARGE_GRANULE) * _LARGE_GRANULE
