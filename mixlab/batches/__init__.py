"""One way to say "model, batch, loss", the same in every tool that takes them.

**A batch is what one call of the model takes.** Batches may be nested; what is no tensor is passed on as it is.

    a tensor                                    model(batch)
    a tuple or list                             model(*batch)
    a mapping, such as a dict                   model(**batch)
    a tuple or list of two: (inputs, targets)   model(inputs), or model(*inputs), or model(**inputs)

So two items are always inputs and targets. The inputs are again a tensor, a tuple, a list or a mapping; the targets
belong to the loss. A model that itself takes two arguments gets ((a, b), targets), or a dict. Any other object, such as
a graph, is passed as (graph,), and with targets as (graph, targets).

**The loss** of the model's output is the first of these that there is:

    1. the function that you give: loss(output, targets), or loss(output, batch) if the batch has no targets;
    2. the output's own loss, if it has an attribute or a key "loss" that is not None;
    3. for (inputs, targets), the cross-entropy of the output or of its "logits".

So torch's own losses can be given as they are, and a model that computes its loss needs none. One that takes the
targets itself and returns (logits, loss) gets a dict, and loss=lambda output, batch: output[1]. The loss is one
floating number: a tensor without dimensions, as `reduction="mean"` and `reduction="sum"` give.

**Formats.** Where a recipe stores weights in 16 bits, floating tensors that the model is given are cast to that format.
The targets of (inputs, targets) are not.
"""

from mixlab.batches.calls import (
    Batch,
    BatchError,
    call_model,
    form,
    is_pair,
    layout,
    loss_part,
    map_batch,
    model_part,
    placed,
    require_batch,
    require_dense,
    require_real,
    require_same_device,
)
from mixlab.batches.losses import (
    Loss,
    call_loss,
    cross_entropy,
    logits_of,
    loss_of,
    loss_on,
    own_loss,
    require_gradient,
    require_gradients,
    require_loss,
)
from mixlab.batches.trees import map_tensors, tensors_of

__all__ = [
    "Batch",
    "BatchError",
    "Loss",
    "call_loss",
    "call_model",
    "cross_entropy",
    "form",
    "is_pair",
    "layout",
    "logits_of",
    "loss_of",
    "loss_on",
    "loss_part",
    "map_batch",
    "map_tensors",
    "model_part",
    "own_loss",
    "placed",
    "require_batch",
    "require_dense",
    "require_gradient",
    "require_gradients",
    "require_loss",
    "require_real",
    "require_same_device",
    "tensors_of",
]
