"""Frameworks and optimizers of others. Files here can be collected without their packages."""
