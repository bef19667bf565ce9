"""mixlab: an interactive lab on mixed-precision training.

>>> import torch
>>> from mixlab import round_to
>>> gradient = torch.tensor([3e-5, 1e-8])
>>> round_to(gradient, "fp16", overflow="inf")[1]
tensor(0.)
>>> round_to(gradient * 1024, "fp16", overflow="inf")[1] / 1024
tensor(1.0012e-08)

## The map

A room is a folder of this package, or a file of one idea. It imports only from the rooms above it:

    arguments  files  powers  glossary  answers  tables  -- small tools
    machine  process                                     -- what runs it
    layers  batches  own_models  wrappers                -- what a model is made of and given, where it is found
      ↓
    formats  loss_scaling  emulation  optimizers         -- what a recipe chooses from
      ↓
    recipes                                              -- the choice, as one line of text
      ↓
    probes  training  experiments                        -- a task and a recipe become a run
    shapes                                               -- sizes and parameters of published models
    memory                                               -- bytes of a recipe, predicted
      ↓
    matmul                                               -- bytes, speed and errors of a product, predicted
      ↓
    measure                                              -- time, bytes, loss, measured
      ↓
    integrations                                         -- callbacks for the trainers of others
      ↓
    claims                                               -- what is said of mixed precision, and what holds
      ↓
    labs                                                 -- what each lab's parameters may be
      ↓
    reports  figures  panels  cli                        -- what people see and type

How a recipe flows through them, from left to right:

    recipe → training.Trainer → StepRecord, Run → figures.training_curves → panels.Cockpit
           → memory.estimate, memory.trace → figures.phase_bars → panels.MemoryPanel
           → measure.measure_train → Record (records/*.json) → reports.TrainingTable

Where to add:

- **a number format**: eXmY needs nothing; a name for one is a line in `FORMATS`, `formats/format.py`;
- **a scaler policy**: a class in `loss_scaling/policies.py`, its name in `recipes.py`, its place on the board in
  `all_policies`;
- **a GPU**: a row of `memory/gpus.py`, and the name that its driver gives it;
- **a task**: a function in `training/tasks.py`, its name in the table beside it and in `training/choices.py`;
- **a lab**: a notebook in `labs/` (`mixlab lab labs` opens it there), its parameters in `labs.py`, and a row of
  README's table;
- **a word of the field**: a line of `GLOSSARY` in `glossary.py`; `python -m tests.glossary_in_labs` marks it in labs;
- **a panel**: a file in `panels/` that binds widgets to data and figures;
- **a measurement**: a file in `measure/` that returns a `Record`, and its command in `cli/measure.py`;
- **a claim**: an entry of `CLAIMS` in the file of its subject in `claims/`, and its place in `keys.py`; then
  README's table is written anew.

What others import from a room stands in its `__init__.py`, or in `__init__.pyi` where a room imports a name when it is
first used. Every file has a place in `tests/house.py`. Tests name the places that were forgotten. `python -m
tests.house` draws the imports as they are, and `python -m tests.docs` lists the parameters that no docstring describes.
"""

import pkgutil

import lazy_loader

# A name is imported when it is first used, so that commands that compute nothing need not wait for torch. Names and
# rooms stand in `__init__.pyi`; `from mixlab import *` takes the names alone.
__getattr__, __dir__, _names_and_rooms = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted({*_names_and_rooms}.difference(room.name for room in pkgutil.iter_modules(__path__)))

__version__ = "0.1.0"
