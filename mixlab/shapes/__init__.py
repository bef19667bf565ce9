"""Shapes of language models as data: sizes, what a layer is made of, parameter counts, the config.json of 42 types.

>>> from mixlab.shapes import SHAPES
>>> mixtral = SHAPES["mixtral-8x7b"]
>>> f"{mixtral.parameters:,}, of which a token passes {mixtral.active_parameters:,}"
'46,702,792,704, of which a token passes 12,879,925,248'
"""

from mixlab.shapes.designs import DESIGNS, Design, Experts, Latent
from mixlab.shapes.model_shapes import Matrix, ModelShape
from mixlab.shapes.published import SHAPES, model_shape

__all__ = ["DESIGNS", "SHAPES", "Design", "Experts", "Latent", "Matrix", "ModelShape", "model_shape"]
