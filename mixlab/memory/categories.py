"""What the bytes of a training step are for: the categories of traces and estimates."""

PARAMETERS = "parameters"
GRADIENTS = "gradients"
CASTS = "weights cast by autocast"
ACTIVATIONS = "activations"
TEMPORARIES = "temporaries"
BATCH = "batch and buffers"
