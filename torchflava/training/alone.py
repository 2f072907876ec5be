"""One rank: nothing to shard, so weights stay whole and are cast where they are used, where FSDP2 copies them through buffers.

The numbers are FSDP2's (torch 2.14, `MixedPrecisionPolicy`): weights, inputs and states in the low precision, weights kept and
gradients added up in float32. What it saves: docs/decisions/0072.
"""

from collections.abc import Callable, ItemsView, Iterable, Iterator, ValuesView
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Variable

from torchflava.training.cast import Made
from torchflava.training.recompute import is_recomputed, learning


def cast_alone(
    model: nn.Module,
    dtype: torch.dtype,
    *,
    units: Iterable[nn.Module],
    verbs: Iterable[str] = (),
    whole: Iterable[nn.Module] = (),
) -> None:
    """Let a model that is on one rank compute in low precision, in place.

    Args:
        model: its forward and its verbs are from now on the only ways in.
        dtype: of weights and inputs.
        units: parts whose inputs are cast too, as FSDP2's are; they may be compiled.
        verbs: the model's other ways in.
        whole: parts that stay in float32.
    """
    left = {id(module) for part in whole for module in part.modules()}
    low = _LowPrecision([module for module in model.modules() if id(module) not in left], dtype)
    for unit in units:
        if unit._compiled_call_impl is None:
            unit.register_forward_pre_hook(lambda _, args, kwargs: (low.cast(args), low.cast(kwargs)), with_kwargs=True)
            if is_recomputed(unit):
                unit.register_forward_hook(partial(low.after_unit, _own_alone(unit, model)))
        else:
            unit._compiled_call_impl = low.filling(unit, unit._compiled_call_impl)
    for name in ("forward", *verbs):
        setattr(model, name, low.calling(getattr(model, name)))
    model.register_state_dict_pre_hook(lambda *_: low.put_back())  # type: ignore[no-untyped-call]  # a backward may have failed
    model.__dict__["__deepcopy__"] = _refuse_copy


def _refuse_copy(_: Any) -> Any:
    raise TypeError(
        "a model in low precision on one rank cannot be copied, for the copy would compute with this one's weights; "
        "copy it before shard(), or load its state_dict() into one that is built anew"
    )


class _Weights(dict[str, Any]):
    """A module's weights by name, which are cast as they are asked for."""

    def __init__(self, own: dict[str, Any], made: Made, cast: Callable[[Any], Any]) -> None:
        super().__init__(own)
        self.made, self.cast = made, cast

    def __getitem__(self, name: str) -> Any:
        return self.made.of(super().__getitem__(name), self.cast)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401  # it is this `get` that would be called

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]  # of `parameters()`, by which parts ask for their type
        return {name: self[name] for name in self}.items()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        return {name: self[name] for name in self}.values()


class _LowPrecision:
    """Weights in low precision in place of the modules' own, as long as a call lasts, and again as long as its backward does:
    what is recomputed there must meet the weights that it met before."""

    def __init__(self, modules: list[nn.Module], dtype: torch.dtype) -> None:
        self.modules = [module for module in modules if module._parameters]
        self.dtype = dtype
        self.own: list[dict[str, Any]] | None = None
        """The modules' own, while others stand in their places."""
        self.within = False
        self.weights: list[_Weights] | None = None
        """The modules' in the call that runs."""

    def calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with weights and inputs in low precision."""

        @wraps(call)
        def cast_call(*args: Any, **kwargs: Any) -> Any:
            if self.within:  # a verb that calls the model
                return call(*args, **kwargs)
            self.put_back()  # a backward that failed left others there
            made = Made()
            self.weights = weights = [_Weights(module._parameters, made, self.cast) for module in self.modules]
            self.within = True
            try:
                self.put(weights)
                output = call(*self.cast(args), **self.cast(kwargs))
            finally:
                self.within, self.weights = False, None
                self.put_back()
            for tensor in learning(output):
                tensor.register_hook(partial(self.before_backward, weights))  # type: ignore[no-untyped-call]
            return output

        return cast_call

    def filling(self, unit: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
        """A compiled unit's `call`, which wants plain tensors in plain dicts."""
        parts = [module for module in unit.modules() if module._parameters]

        @wraps(call)
        def filled_call(*args: Any, **kwargs: Any) -> Any:
            lazy = [module._parameters for module in parts]
            _give(parts, [{name: each[name] for name in each} for each in lazy])
            try:
                return call(*self.cast(args), **self.cast(kwargs))
            finally:
                _give(parts, lazy)

        return filled_call

    def put(self, weights: list[_Weights]) -> None:
        """Others in place of the modules' own."""
        self.own = [module._parameters for module in self.modules]
        _give(self.modules, weights)

    def put_back(self) -> None:
        """The modules' own, if others stand there."""
        if self.own is not None:
            _give(self.modules, self.own)
            self.own = None

    def before_backward(self, weights: list[_Weights], _: Tensor) -> None:
        """Backward has reached one of the call's outputs, or of its units that are computed again."""
        if self.own is None:
            self.put(weights)
            Variable._execution_engine.queue_callback(self.put_back)
        else:
            _give(self.modules, weights)  # another call's may stand there, if one backward goes through both

    def after_unit(self, own: list[Tensor], unit: nn.Module, _: Any, output: Any) -> None:
        """A unit that backward computes again needs its weights no more until then."""
        if self.weights:  # else it is backward that computes it again
            self.weights[0].made.empty(own)
            for tensor in learning(output):
                tensor.register_hook(partial(self.before_unit, self.weights, own))  # type: ignore[no-untyped-call]

    def before_unit(self, weights: list[_Weights], own: list[Tensor], gradient: Tensor) -> None:
        """Backward has reached a unit that it computes again, by the weights of the same call."""
        self.before_backward(weights, gradient)
        weights[0].made.fill(own)

    def cast(self, given: Any) -> Any:
        """Numbers in floating point, within tuples, lists and dicts too -> the same in low precision."""
        if isinstance(given, Tensor):
            return given.to(self.dtype) if given.is_floating_point() else given
        if isinstance(given, dict):
            return {key: self.cast(value) for key, value in given.items()}
        if isinstance(given, tuple) and hasattr(given, "_fields"):
            return type(given)(*map(self.cast, given))
        return type(given)(map(self.cast, given)) if isinstance(given, list | tuple) else given


def _own_alone(unit: nn.Module, model: nn.Module) -> list[Tensor]:
    """The unit's weights that stand in no other part of the model."""
    elsewhere = set(map(id, _beside(unit, model)))
    return [own for own in unit.parameters() if id(own) not in elsewhere]


def _beside(unit: nn.Module, part: nn.Module) -> Iterator[Tensor | None]:
    """The weights of `part` and of what is within it, the unit left out; those of a module that stands in both, too."""
    if part is not unit:
        yield from part._parameters.values()
        for child in part.children():
            yield from _beside(unit, child)


def _give(modules: list[nn.Module], weights: Iterable[dict[str, Any]]) -> None:
    for module, each in zip(modules, weights, strict=True):
        module.__dict__["_parameters"] = each
