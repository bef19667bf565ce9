"""How many bytes a training needs, as a function of its recipe."""
