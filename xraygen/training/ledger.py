"""What a computation would take, without doing it: on torch's meta device tensors have shapes and no memory.

A ledger counts the bytes that are alive and the bytes that go through memory, operation by operation, so that what
autograd keeps, what the backward pass needs on top and what activation checkpointing saves all come out of the real
network's code and not out of a formula beside it.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
_IN_BFLOAT16 = (functional.linear, functional.conv2d, functional.scaled_dot_product_attention)
"""What autocast computes in bfloat16; group normalisation and all that follows it stay in float32."""

_CONVOLUTIONS = (_aten.convolution, _aten.convolution_backward)
"""Their kernels (oneDNN's on a CPU) copy what they read and write into blocks of channels and back: at the fullest
moment of a large image these copies are a tenth of all memory and more."""


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of every storage that is made while it is entered.

    Attributes:
        flops: Floating-point operations in products and convolutions, a multiply-add being two.
        live: Bytes alive now.
        peak: Most bytes alive at once, the copies that convolutions make for themselves included.
        traffic: Bytes read and written by all operations that are no mere view, each run on its own.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.live = self.peak = self.traffic = 0
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        read = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        given = {tensor.untyped_storage()._cdata for tensor in read}
        for tensor in made:
            if tensor.untyped_storage()._cdata not in given:
                self._note(tensor)
        if func.overloadpacket in _CONVOLUTIONS:
            self.peak = max(self.peak, self.live + sum(tensor.nbytes for tensor in (*read, *made)))
        self.flops += flops_of(func, args, kwargs or {}, out)
        if not func.is_view:
            self.traffic += sum(tensor.nbytes for tensor in (*read, *made))
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key)


class AsOnDevice(TorchFunctionMode):
    """Makes the meta device do what a real one does: attention in one piece, and autocast.

    Left alone, the meta device unfolds attention into its matrix, which no device of ours does, and knows no autocast.

    Args:
        bfloat16: Take convolutions, linear layers and attention in bfloat16, as autocast does.
    """

    def __init__(self, *, bfloat16: bool) -> None:
        super().__init__()
        self.bfloat16 = bfloat16

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if self.bfloat16 and func in _IN_BFLOAT16:
            args = tree_map_only(Tensor, _to_bfloat16, args)
        if func is functional.scaled_dot_product_attention:
            return _aten._scaled_dot_product_flash_attention_for_cpu(*args)[0]
        return func(*args, **(kwargs or {}))

    def around(self, layers: Iterable[nn.Module]) -> None:
        """Be entered whenever one of these layers runs, when activations are computed again too."""
        for layer in layers:
            layer.forward = self._inside(layer.forward)

    def _inside(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any) -> Any:
            with self:
                return forward(*args)

        return inside


def _to_bfloat16(tensor: Tensor) -> Tensor:
    return tensor.to(torch.bfloat16)


def _attention_flops(query: Sequence[int], key: Sequence[int]) -> int:
    """Two products, of queries with keys and of their weights with values: 2 * 2 B H L_q L_k D."""
    batch, heads, queries, width = query
    return 4 * batch * heads * queries * key[2] * width


def flops_of(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Multiplications and additions of one product, convolution or attention, by torch's formulas; 0 of all else.

    Attention has none of torch's for the CPU's kernel. Backward it is four products: the one that is done again, since
    the matrix was not kept, is not counted as work.
    """
    operation = func.overloadpacket
    if operation is _aten._scaled_dot_product_flash_attention_for_cpu:
        return _attention_flops(args[0].shape, args[1].shape)
    if operation is _aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return 2 * _attention_flops(args[1].shape, args[2].shape)
    formula = flop_registry.get(operation)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0
