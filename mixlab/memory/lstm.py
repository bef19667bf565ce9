"""An LSTM step by step, as torch's own kernels compute it on any CPU.

On a machine with oneDNN, `torch.lstm` of fake tensors becomes one op of oneDNN, with memory that a real step without
oneDNN does not need. This module calls the ops of ATen's own implementation (PyTorch, aten/src/ATen/native/RNN.cpp) in
its order, so that tensors live and die as they do there. GRU and plain RNNs do not need this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_State = tuple[Tensor, Tensor]  # hidden state and cell state, (B, H) each
_Weights = Sequence[Tensor]  # of a layer and direction: gates from input and state, their biases, a projection


def recurrent(op: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the replacement of `torch.lstm`; it passes packed sequences to `op`."""

    def lstm(*args: Any, **kwargs: Any) -> Any:
        if kwargs or isinstance(args[1], Tensor):  # (data, batch_sizes, ...), which oneDNN does not take
            return op(*args, **kwargs)
        if torch.is_autocast_enabled("cpu"):
            args = _cast(args, torch.get_autocast_dtype("cpu"))
        with torch.autocast("cpu", enabled=False):
            return _lstm(*args)

    return lstm


def _cast(args: Any, dtype: torch.dtype) -> Any:
    if isinstance(args, tuple | list):
        return tuple(_cast(arg, dtype) for arg in args)
    return args.to(dtype) if isinstance(args, Tensor) and args.is_floating_point() else args


def _lstm(
    x: Tensor,
    start: Sequence[Tensor],
    weights: Sequence[Tensor],
    has_biases: bool,
    layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = x.transpose(0, 1) if batch_first else x  # (T, B, ...)
    states = list(zip(start[0].unbind(0), start[1].unbind(0), strict=True))
    projected = start[0].shape[2] != start[1].shape[2]
    size = (4 if has_biases else 2) + projected
    cells = [_Cell(weights[first : first + size], has_biases) for first in range(0, len(weights), size)]
    ends: list[_State] = []
    for layer in range(layers):
        if bidirectional:
            both = slice(2 * layer, 2 * layer + 2)
            x, *last = _both_ways(x, cells[both], states[both])
        else:
            x, *last = _one_way(x, cells[layer], states[layer])
        ends += last
        if dropout and training and layer < layers - 1:
            x = F.dropout(x, dropout, training)
    output = x.transpose(0, 1) if batch_first else x
    return output, torch.stack([h for h, _ in ends], 0), torch.stack([c for _, c in ends], 0)


def _one_way(x: Tensor, cell: _Cell, state: _State) -> tuple[Any, ...]:
    """Returns the outputs of all steps (T, B, H) and the last state."""
    gates = cell.of_inputs(x)
    outputs, end = cell.over_time(gates, state)
    return torch.stack(outputs, 0), end


def _both_ways(x: Tensor, cells: Sequence[_Cell], states: Sequence[_State]) -> tuple[Any, ...]:
    """Returns the outputs of all steps (T, B, 2 H) and both last states; the lists of outputs live to the end."""
    gates = cells[0].of_inputs(x)
    forth, end = cells[0].over_time(gates, states[0])
    there = torch.stack(forth, 0)
    gates = cells[1].of_inputs(x)
    back, other_end = cells[1].over_time(gates[::-1], states[1])
    return torch.cat((there, torch.stack(back[::-1], 0)), -1), end, other_end


class _Cell:
    """The LSTM cell of one layer and direction."""

    def __init__(self, weights: _Weights, has_biases: bool) -> None:
        self.from_input, self.from_state = weights[:2]
        biases: Sequence[Tensor | None] = weights[2:4] if has_biases else (None, None)
        self.input_bias, self.state_bias = biases
        self.projection = weights[-1] if len(weights) % 2 else None

    def of_inputs(self, x: Tensor) -> Sequence[Tensor]:
        """Returns the inputs' part of the gates, step by step."""
        return F.linear(x, self.from_input, self.input_bias).unbind(0)

    def over_time(self, of_inputs: Sequence[Tensor], state: _State) -> tuple[list[Tensor], _State]:
        """Returns the outputs of all steps, and the last state."""
        outputs: list[Tensor] = []
        for step in of_inputs:
            state = self._step(step, state)
            outputs.append(state[0])
        return outputs, state

    def _step(self, of_input: Tensor, state: _State) -> _State:
        h, c = state
        gates = F.linear(h, self.from_state, self.state_bias).add_(of_input)
        taken, kept, new, given = gates.unsafe_chunk(4, 1)
        for gate in (taken, kept, given):
            gate.sigmoid_()
        new.tanh_()
        c = (kept * c).add_(taken * new)
        h = given * c.tanh()
        return (h if self.projection is None else h @ self.projection.t()), c
