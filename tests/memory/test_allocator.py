from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from mixlab.memory import Replay, replay_trace, trace
from mixlab.memory.allocator import replay_events
from mixlab.memory.categories import PHASES

KIB, MIB = 2**10, 2**20


def reserved(*events: tuple[int, int]) -> int:
    return replay_events(events).reserved_bytes


@pytest.mark.parametrize(
    ("size", "segment"),
    [
        (1, 2 * MIB),
        (MIB, 2 * MIB),
        (MIB + 1, 20 * MIB),
        (10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB),
        (10 * MIB + 1, 12 * MIB),
        (33 * MIB, 34 * MIB),
    ],
)
def test_how_large_a_first_segment_is(size, segment):
    assert reserved((0, size)) == segment


def test_small_blocks_share_a_segment_of_two_mebibytes():
    assert reserved(*((i, 512) for i in range(4096))) == 2 * MIB
    assert reserved(*((i, 512) for i in range(4097))) == 4 * MIB
    assert reserved(*((i, 513) for i in range(2048))) == 2 * MIB  # each takes 1024
    assert reserved(*((i, 513) for i in range(2049))) == 4 * MIB


def test_small_and_large_blocks_do_not_share():
    assert replay_events([(0, KIB), (1, 2 * MIB)]) == Replay(22 * MIB, 2 * MIB + KIB, 2)


def test_a_large_block_is_split_only_if_more_than_a_mebibyte_is_left():
    assert replay_events([(0, 18 * MIB), (1, 2 * MIB)]) == Replay(18 * MIB + 20 * MIB, 20 * MIB, 2)
    assert replay_events([(0, 5 * MIB), (1, 15 * MIB)]) == Replay(20 * MIB, 20 * MIB, 1)
    # of 12 MiB, 11.5 are asked for: the rest stays with the block, and is counted as allocated
    assert replay_events([(0, 11 * MIB + 512 * KIB)]) == Replay(12 * MIB, 12 * MIB, 1)


def test_the_smallest_block_that_fits_is_taken():
    # free blocks of 30 and 20 MiB; 20 MiB must go where they fit, or 30 MiB would need a third segment
    events = [(0, 30 * MIB), (1, 20 * MIB), (0, -30 * MIB), (1, -20 * MIB), (2, 20 * MIB), (3, 30 * MIB)]
    assert reserved(*events) == 50 * MIB


def test_freed_neighbours_are_merged():
    parts = [(i, 5 * MIB) for i in range(4)]  # a segment of 20 MiB
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 1, 3), (1, 3, 0, 2)):
        assert reserved(*parts, *((i, -5 * MIB) for i in order), (9, 20 * MIB)) == 20 * MIB


def test_a_hole_that_is_too_small_is_fragmentation():
    events = [(0, 5 * MIB), (1, 5 * MIB), (2, 5 * MIB), (3, 5 * MIB), (0, -5 * MIB), (2, -5 * MIB), (4, 6 * MIB)]
    found = replay_events(events)
    assert found == Replay(40 * MIB, 20 * MIB, 2)
    assert found.fragmentation == 0.5


def test_segments_are_never_merged_and_never_given_back():
    events = [(0, 20 * MIB), (1, 20 * MIB), (0, -20 * MIB), (1, -20 * MIB), (2, 40 * MIB)]
    assert replay_events(events) == Replay(80 * MIB, 40 * MIB, 3)


def test_nothing_reserves_nothing():
    assert replay_events([]) == Replay(0, 0, 0)
    assert replay_events([]).fragmentation == 0


@pytest.mark.parametrize("events", [[(0, -512)], [(0, 512), (0, 512)], [(0, 0)], [(0, 512), (0, -512), (0, -512)]])
def test_events_that_cannot_be_are_refused(events):
    with pytest.raises(ValueError, match=r"replay_events: \(0, -?\d+\) must allocate a number that is not alive"):
        replay_events(events)


def test_a_trace_is_replayed_from_its_first_step_on():
    model = nn.Sequential(nn.Linear(1024, 4096), nn.ReLU(), nn.Linear(4096, 1024))
    traced = trace(model, (torch.zeros(64, 1024), torch.zeros(64, dtype=torch.long)))
    alive = {}
    for number, size in traced.events():
        assert alive.pop(number, 0) == max(0, -size)
        if size > 0:
            alive[number] = size
    assert sum(alive.values()) == traced.after["step"]
    found = replay_trace(traced)
    assert replace(found, phase_peaks={}, after={}) == replay_events(traced.events())
    assert found.allocated_bytes == max(found.phase_peaks.values())
    for phase in PHASES:
        assert traced.phase_peaks[phase] <= found.phase_peaks[phase] < 1.3 * traced.phase_peaks[phase]
        assert traced.after[phase] <= found.after[phase] <= found.phase_peaks[phase]
    assert traced.peak_bytes <= found.allocated_bytes <= found.reserved_bytes
    assert 0 <= found.fragmentation < 0.3
