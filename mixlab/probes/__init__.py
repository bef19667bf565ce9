"""What tensors and updates lose to a number format, layer by layer."""

from mixlab.probes.histograms import Fractions, Histogram
from mixlab.probes.lost import Lost, Share
from mixlab.probes.scale_windows import largest_scale_exponent, scale_window, usable_window
from mixlab.probes.stats import TensorKind, TensorStats, tensor_stats
from mixlab.probes.tracking import track
from mixlab.probes.update_tracking import track_updates
from mixlab.probes.updates import swallowed, swallowed_by_layer, swallowed_in_all

__all__ = [
    "Fractions",
    "Histogram",
    "Lost",
    "Share",
    "TensorKind",
    "TensorStats",
    "largest_scale_exponent",
    "scale_window",
    "swallowed",
    "swallowed_by_layer",
    "swallowed_in_all",
    "tensor_stats",
    "track",
    "track_updates",
    "usable_window",
]
