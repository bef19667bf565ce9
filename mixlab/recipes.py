"""The recipe: how a model is stored and computed and how its loss is scaled, as frozen data with a text form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from mixlab.arguments import require_whole
from mixlab.formats import BF16, E4M3FN, E5M2, FP16, FP32, TF32, Format
from mixlab.loss_scaling import ApexPolicy, DeepSpeedPolicy, MegatronPolicy, OnOverflow, ScalePolicy, TorchPolicy
from mixlab.loss_scaling.policies import require_on_overflow, require_scale
from mixlab.optimizers import StateRounding
from mixlab.powers import read_number, typed

if TYPE_CHECKING:
    from mixlab.loss_scaling import Scaler

ScalerName = Literal["none", "static", "dynamic", "apex", "megatron", "deepspeed"]
Update = Literal["nearest_even", "stochastic", "kahan", "per_op"]

StateName = Format | Literal["dynamic8"]

STORED = (FP32, FP16, BF16)
EIGHT_BIT: tuple[StateName, ...] = (E4M3FN, E5M2, "dynamic8")
STATES: tuple[StateName, ...] = (*STORED, *EIGHT_BIT)
COMPUTED = (FP32, TF32, FP16, BF16)

_POLICIES: dict[str, type[ScalePolicy]] = {
    "dynamic": TorchPolicy,
    "apex": ApexPolicy,
    "megatron": MegatronPolicy,
    "deepspeed": DeepSpeedPolicy,
}
KNOBS: dict[str, tuple[str, ...]] = {
    "none": (),
    "static": ("scale", "on_overflow"),
    **{
        name: ("scale", *(field.name for field in fields(policy) if field.name != "init_scale"), "on_overflow")
        for name, policy in _POLICIES.items()
    },
}


@dataclass(frozen=True)
class Recipe:
    """A way to train. Its text form is the nearest preset plus the differences; it parses back to the same recipe.

    >>> recipe = Recipe.parse("amp-fp16,scale=1024")
    >>> recipe.compute.name, recipe.scale, str(recipe)
    ('fp16', 1024.0, 'amp-fp16,scale=1024')
    >>> str(Recipe(compute="bf16", exp_avg="bf16"))  # formats may be given by name
    'amp-bf16,exp_avg=bf16'

    Args:
        weights: The format in which parameters are stored: fp32, fp16 or bf16.
        compute: The format of matrix products and convolutions. fp16 or bf16 with fp32 weights is autocast (AMP); tf32
            is fp32 storage with operands rounded to tf32; 16-bit weights compute in their own format.
        gradients: The format in which parameters' gradients are stored until the optimizer has used them: fp32, fp16 or
            bf16; with 16-bit weights, the weights' format or fp32.
        exp_avg: The format of Adam's first moment, or of SGD's momentum: fp32, fp16 or bf16; or, in 8 bits with a scale
            for each block, e4m3fn, e5m2 or "dynamic8" (see `mixlab.optimizers.Storage`).
        exp_avg_sq: The format of Adam's second moment, from the same list.
        state_rounding: How both moments are rounded: "nearest_even", which text writes as "nearest", or "stochastic".
        block_size: How many elements of an 8-bit state share a scale.
        master_weights: Whether the optimizer keeps an fp32 copy of 16-bit weights and updates that copy (the "master
            weights" of Micikevicius et al., Mixed Precision Training, 2018, section 3.1).
        update: How the optimizer computes new weights. "nearest_even", which text writes as "nearest", "stochastic" and
            "kahan" compute in fp32 and round to the weights' format once: to nearest, at random in proportion to the
            distances, or to nearest with the rounding error kept in a second 16-bit number. "per_op" rounds every
            operation to the weights' format, as torch.optim does with 16-bit parameters.
        scaler: "none", "static", "dynamic" (torch's policy), "apex", "megatron" or "deepspeed".
        scale: The static loss scale, or the initial value of a dynamic one.
        growth_factor, backoff_factor, growth_interval, min_scale, max_scale, hysteresis, consecutive_hysteresis: Knobs
            of the scalers; the policies in `mixlab.loss_scaling` say which has which. Here the defaults are the same
            for all scalers, so that they can be compared; there, each policy has its own system's defaults.
        on_overflow: What to do about a step with inf or NaN in a gradient: "skip" or "zero", as in `DynamicScaler`.

    Raises:
        TypeError: If a format is neither a `Format` nor a name.
        ValueError: If a value is out of its range, fields contradict each other, or the chosen scaler lacks a knob.
    """

    weights: Format = FP32
    compute: Format = FP32
    _: KW_ONLY
    gradients: Format = FP32
    exp_avg: StateName = FP32
    exp_avg_sq: StateName = FP32
    state_rounding: StateRounding = "nearest_even"
    block_size: int = 256
    master_weights: bool = False
    update: Update = "nearest_even"
    scaler: ScalerName = "none"
    scale: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000
    min_scale: float = 1.0
    max_scale: float = 2.0**24
    hysteresis: int = 2
    consecutive_hysteresis: bool = False
    on_overflow: OnOverflow = "skip"

    def __post_init__(self) -> None:
        self._check_formats()
        self._check_states()
        self._check_update()
        if self.scaler not in KNOBS:
            raise ValueError(f"Recipe: scaler={self.scaler!r} is not allowed; use {_listed(KNOBS)}")
        for knob, default in _KNOB_DEFAULTS.items():
            value = getattr(self, knob)
            if knob not in KNOBS[self.scaler] and value != default:
                raise ValueError(
                    f"Recipe: {knob}={printed(value)} has no effect with scaler={self.scaler}; "
                    f"use scaler={_listed(name for name, knobs in KNOBS.items() if knob in knobs)}"
                )
        self._check_scaler()

    def _check_formats(self) -> None:
        for name, allowed in _ALLOWED.items():
            try:
                fmt = _state(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise type(error)(f"Recipe: {name}: {error}") from None
            if fmt not in allowed:
                raise ValueError(f"Recipe: {name}={fmt} is not allowed; use {_listed(allowed)}")
            # Keeps the allowed format's name, so that equal recipes print the same: e5m10 becomes fp16.
            object.__setattr__(self, name, allowed[allowed.index(fmt)])
        if self.weights != FP32 and self.compute != self.weights:
            raise ValueError(
                f"Recipe: weights={self.weights} needs compute={self.weights}, got compute={self.compute}; "
                f"or keep weights=fp32, and autocast computes in {self.compute}"
            )
        if self.weights != FP32 and self.gradients not in (self.weights, FP32):
            raise ValueError(
                f"Recipe: weights={self.weights} needs gradients={self.weights} or gradients=fp32, "
                f"got gradients={self.gradients}"
            )

    def _check_scaler(self) -> None:
        """Refuses what a scaler would refuse, without torch, which scalers need."""
        if self.scaler == "static":
            require_scale("StaticScaler", "scale", self.scale)
            require_on_overflow("StaticScaler", self.on_overflow)
        elif self.scaler != "none":
            self.scale_policy()
            require_on_overflow("DynamicScaler", self.on_overflow)

    def _check_states(self) -> None:
        states = (self.exp_avg, self.exp_avg_sq)
        if self.state_rounding not in get_args(StateRounding):
            raise ValueError(
                f"Recipe: state_rounding={self.state_rounding!r} is not allowed; use {_listed(get_args(StateRounding))}"
            )
        if self.state_rounding != "nearest_even" and (set(states) == {FP32} or self.update == "per_op"):
            raise ValueError(
                "Recipe: state_rounding=stochastic needs exp_avg or exp_avg_sq in less than fp32, and not update=per_op"
            )
        require_whole("Recipe: block_size", self.block_size, 1)
        if self.block_size != 256 and not any(state in EIGHT_BIT for state in states):
            raise ValueError(
                f"Recipe: block_size={self.block_size} has no effect without a state in {_listed(EIGHT_BIT)}"
            )

    def _check_update(self) -> None:
        for name in ("master_weights", "consecutive_hysteresis"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"Recipe: {name} must be True or False, got {getattr(self, name)!r}")
        if self.update not in get_args(Update):
            raise ValueError(f"Recipe: update={self.update!r} is not allowed; use {_listed(get_args(Update))}")
        if self.master_weights and self.weights == FP32:
            raise ValueError("Recipe: master_weights=true needs 16-bit weights; fp32 weights are their own master")
        if self.update != "nearest_even" and (self.weights == FP32 or self.master_weights):
            raise ValueError(
                f"Recipe: update={self.update} needs 16-bit weights without master weights; "
                "with fp32 weights or fp32 master weights use update=nearest_even"
            )
        states = {self.gradients, self.exp_avg, self.exp_avg_sq}
        if self.update == "per_op" and states != {self.weights}:
            raise ValueError(
                f"Recipe: update=per_op needs gradients, exp_avg and exp_avg_sq in the weights' format {self.weights}, "
                f"got {self.gradients}, {self.exp_avg}, {self.exp_avg_sq}; use update=nearest_even"
            )

    @classmethod
    def of(cls, recipe: Recipe | str) -> Recipe:
        """Returns the recipe itself, or the one with this text.

        Args:
            recipe: A recipe, or text for `parse`.

        Raises:
            TypeError: If it is neither.
            ValueError: If the text is not a recipe's.
        """
        if isinstance(recipe, cls):
            return recipe
        if not isinstance(recipe, str):
            raise TypeError(f"a recipe must be a Recipe or its text, such as 'amp-fp16', got {recipe!r:.60}")
        return cls.parse(recipe)

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """Returns the recipe with this text.

        Args:
            text: "preset" or "preset,field=value,...". Numbers may be powers such as 2^10.

        Raises:
            TypeError: If `text` is not a string.
            ValueError: If a preset, field or value is unknown; the message says what is allowed.
        """
        if not isinstance(text, str):
            raise TypeError(f"Recipe.parse: text must be a string such as 'amp-fp16,scale=1024', got {text!r}")
        preset, *assignments = (word.strip() for word in text.split(","))
        if preset not in PRESETS:
            where = f" in {text!r}" if preset != text else ""
            raise ValueError(f"unknown recipe {preset!r}{where}: start with one of {_listed(PRESETS)}")
        changes: dict[str, Any] = {}
        for assignment in assignments:
            name, equals, value = (part.strip() for part in assignment.partition("="))
            if not equals or name not in READERS:
                raise ValueError(
                    f"{assignment!r} in recipe {text!r} is not field=value; the fields are {_listed(READERS)}"
                )
            if name in changes:
                raise ValueError(f"recipe {text!r} sets {name} twice; keep one")
            try:
                changes[name] = READERS[name](value)
            except ValueError as error:
                raise ValueError(f"{assignment!r} in recipe {text!r}: {error}") from None
        return replace(PRESETS[preset], **changes)

    def __str__(self) -> str:
        def differences(preset: Recipe) -> list[str]:
            pairs = ((field.name, getattr(self, field.name), getattr(preset, field.name)) for field in fields(self))
            return [f"{name}={printed(own)}" for name, own, theirs in pairs if own != theirs]

        def distance(preset: Recipe) -> tuple[bool, int]:
            other_formats = (preset.weights, preset.compute) != (self.weights, self.compute)
            return other_formats, len(differences(preset))

        name = min(PRESETS, key=lambda name: distance(PRESETS[name]))
        return ",".join([name, *differences(PRESETS[name])])

    @property
    def autocast(self) -> bool:
        """Whether listed ops compute in 16 bits while the weights are stored in fp32."""
        return self.weights == FP32 and self.compute in (FP16, BF16)

    @property
    def uses_torch_optim(self) -> bool:
        """Whether training uses torch.optim itself: if everything is stored in fp32, or with update=per_op."""
        return self.update == "per_op" or {self.weights, self.gradients, self.exp_avg, self.exp_avg_sq} == {FP32}

    def make_scaler(self) -> Scaler:
        """Returns a new loss scaler with this recipe's knobs."""
        from mixlab.loss_scaling import DynamicScaler, NoScaler, StaticScaler  # which need torch, as recipes do not

        if self.scaler == "none":
            return NoScaler()
        if self.scaler == "static":
            return StaticScaler(self.scale, on_overflow=self.on_overflow)
        return DynamicScaler(self.scale_policy(), on_overflow=self.on_overflow)

    def scale_policy(self) -> ScalePolicy:
        """Returns the policy of this recipe's dynamic scaler.

        Raises:
            ValueError: If the recipe's scaler is "none" or "static".
        """
        if self.scaler not in _POLICIES:
            raise ValueError(f"scaler={self.scaler} has no policy; use scaler={_listed(_POLICIES)}")
        policy = _POLICIES[self.scaler]
        knobs = {field.name: getattr(self, field.name) for field in fields(policy) if field.name != "init_scale"}
        return policy(init_scale=self.scale, **knobs)

    def with_loss_scale(self, scale: float) -> Recipe:
        """Returns this recipe with another scale. A recipe without a scaler gets a static one.

        Args:
            scale: The scale of a static scaler, or the initial scale of a dynamic one; 0 leaves the recipe as it is.

        Raises:
            ValueError: If it is not a number, or neither 0 nor positive and finite in float32.
        """
        if isinstance(scale, bool) or not isinstance(scale, int | float):
            raise ValueError(f"the loss scale must be a number, 0 for the recipe's own, got {scale!r}")
        if scale == 0:
            return self
        return replace(self, scaler="static" if self.scaler == "none" else self.scaler, scale=scale)

    def with_scaler(self, scaler: ScalerName) -> Recipe:
        """Returns this recipe with another kind of scaler, keeping the knobs that both kinds have.

        Args:
            scaler: "none", "static", "dynamic", "apex", "megatron" or "deepspeed".

        Raises:
            ValueError: If there is no such scaler.
        """
        kept = KNOBS.get(scaler, ())
        defaults = {knob: default for knob, default in _KNOB_DEFAULTS.items() if knob not in kept}
        return replace(self, scaler=scaler, **defaults)


_ALLOWED: dict[str, tuple[StateName, ...]] = {
    "weights": STORED,
    "compute": COMPUTED,
    "gradients": STORED,
    "exp_avg": STATES,
    "exp_avg_sq": STATES,
}
_KNOB_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(Recipe) if any(field.name in knobs for knobs in KNOBS.values())
}


def _number(text: str) -> float:
    """Reads "1024", "1e-3" or "2^10"."""
    try:
        return read_number(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number such as 1024, 1e-3 or 2^10") from None


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number such as 2000") from None


def _state(state: StateName | str) -> StateName:
    return "dynamic8" if state == "dynamic8" else Format.of(state)


def _rounding(text: str) -> str:
    return "nearest_even" if text == "nearest" else text


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text == "true"


READERS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("weights", "compute", "gradients"), Format.parse),
    **dict.fromkeys(("exp_avg", "exp_avg_sq"), _state),
    "state_rounding": _rounding,
    "block_size": _whole_number,
    "master_weights": _truth,
    "update": _rounding,
    "scaler": str,
    **dict.fromkeys(("scale", "growth_factor", "backoff_factor"), _number),
    "growth_interval": _whole_number,
    **dict.fromkeys(("min_scale", "max_scale"), _number),
    "hysteresis": _whole_number,
    "consecutive_hysteresis": _truth,
    "on_overflow": str,
}


def printed(value: object) -> str:
    """Returns the text of a field's value, as in a recipe's text."""
    if value == "nearest_even":
        return "nearest"
    if isinstance(value, bool):
        return str(value).lower()
    return typed(value) if isinstance(value, float) else str(value)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))


def _stored(fmt: Format, **changes: Any) -> Recipe:
    """Returns the recipe that stores and computes everything in one format."""
    return Recipe(fmt, fmt, gradients=fmt, exp_avg=fmt, exp_avg_sq=fmt, **changes)


PRESETS: dict[str, Recipe] = {
    "fp32": Recipe(),
    "tf32": Recipe(compute=TF32),
    "amp-fp16": Recipe(compute=FP16, scaler="dynamic"),
    "amp-bf16": Recipe(compute=BF16),
    "fp16": _stored(FP16, update="per_op"),
    "bf16": _stored(BF16, update="per_op"),
    "bf16-sr": _stored(BF16, update="stochastic"),
    "bf16-kahan": _stored(BF16, update="kahan"),
    "fp16-master": Recipe(FP16, FP16, master_weights=True, scaler="dynamic"),
    "bf16-master": Recipe(BF16, BF16, master_weights=True),
    "lean-bf16": Recipe(compute=BF16, gradients=BF16, exp_avg=BF16),
}
