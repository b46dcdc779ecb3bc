"""Rules for ONNX operators with windows: convolutions, normalisation, pooling, resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from certify.frontends.onnx_node import OnnxNode, Table
from certify.graph import layers, windows
from certify.graph.build import NotLowered, Operand
from certify.graph.windows import Window

Array = np.ndarray
LAYERS = Table()


def _window(n: OnnxNode, spatial: Sequence[int], kernel: Sequence[int]) -> Window:
    """Kernel, strides, dilations and pads of a convolution or pooling, `auto_pad` resolved.

    SAME: as many outputs as ceil(size / stride); an odd pad's larger half goes to the end (UPPER) or
    the beginning (LOWER).
    """
    k = len(spatial)
    if len(kernel) != k:
        raise ValueError(f"a kernel {tuple(kernel)} over {k} axes")
    stride, dilation = (n.attribute(name, [1] * k) for name in ("strides", "dilations"))
    auto, pads = n.text("auto_pad", "NOTSET"), n.attribute("pads", [0] * 2 * k)
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        reach = [d * (w - 1) + 1 for d, w in zip(dilation, kernel, strict=True)]
        total = [max((-(-s // t) - 1) * t + r - s, 0) for s, t, r in zip(spatial, stride, reach, strict=True)]
        pads = _halves(total, auto)
    elif auto == "VALID":
        pads = [0] * 2 * k
    elif auto != "NOTSET":
        raise ValueError(f"auto_pad {auto}")
    return Window(
        tuple(kernel),
        tuple(stride),
        tuple(pads[:k]),
        tuple(pads[k:]),
        tuple(dilation),
        bool(n.attribute("ceil_mode", 0)),
    )


def _halves(total: Sequence[int], auto: str) -> list[int]:
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return small + large if auto == "SAME_UPPER" else large + small


@LAYERS("Conv")
def _conv(n: OnnxNode) -> Operand:
    x, weight = n.operand(0), n.need(1)
    w = _window(n, x.shape[2:], weight.shape[2:])
    return n.builder.conv(
        x,
        weight,
        n.constant(2),
        stride=w.stride,
        before=w.before,
        after=w.after,
        dilation=w.dilation,
        groups=n.attribute("group", 1),
    )


@LAYERS("ConvTranspose")
def _conv_transpose(n: OnnxNode) -> Operand:
    """Pads follow from `output_shape` where it is given (the standard's formula)."""
    x, weight = n.operand(0), n.need(1)
    spatial, kernel = x.shape[2:], weight.shape[2:]
    k = len(spatial)
    if len(kernel) != k:
        raise ValueError(f"a kernel {kernel} over {k} axes")
    stride, dilation = (tuple(n.attribute(name, [1] * k)) for name in ("strides", "dilations"))
    extra = list(n.attribute("output_padding", [0] * k))
    auto, pads = n.text("auto_pad", "NOTSET"), list(n.attribute("pads", [0] * 2 * k))
    wanted = n.attribute("output_shape", None)
    if wanted is None and auto.startswith("SAME"):
        wanted = [s * t for s, t in zip(spatial, stride, strict=True)]
    if wanted is not None:
        full = [
            (s - 1) * t + d * (w - 1) + 1 + e
            for s, t, d, w, e in zip(spatial, stride, dilation, kernel, extra, strict=True)
        ]
        total = [f - w for f, w in zip(full, wanted[-k:], strict=True)]
        extra = [e + max(-t, 0) for e, t in zip(extra, total, strict=True)]
        pads = _halves([max(t, 0) for t in total], auto)
    elif auto == "VALID":
        pads = [0] * 2 * k
    return n.builder.conv_transpose(
        x,
        weight,
        n.constant(2),
        stride=stride,
        before=pads[:k],
        after=pads[k:],
        dilation=dilation,
        output_padding=extra,
        groups=n.attribute("group", 1),
    )


@LAYERS("BatchNormalization")
def _batch_norm(n: OnnxNode) -> Operand:
    if n.attribute("training_mode", 0) or not n.attribute("spatial", 1):
        raise NotLowered("training mode, or statistics per activation")
    scale, shift, mean, variance = (n.need(i) for i in range(1, 5))
    return n.builder.batch_norm(n.operand(0), scale, shift, mean, variance, n.number("epsilon", 1e-5))


# --- pooling -------------------------------------------------------------------------------------


@LAYERS("MaxPool")
def _max_pool(n: OnnxNode) -> Operand:
    if len(n.outputs) > 1 and n.outputs[1]:
        raise NotLowered("the places of the maxima")
    x = n.operand(0)
    return windows.max_pool(n.builder, x, _window(n, x.shape[2:], n.attribute("kernel_shape", ())))


@LAYERS("AveragePool")
def _average_pool(n: OnnxNode) -> Operand:
    x = n.operand(0)
    window = _window(n, x.shape[2:], n.attribute("kernel_shape", ()))
    return windows.avg_pool(n.builder, x, window, count_padding=bool(n.attribute("count_include_pad", 0)))


@LAYERS("GlobalAveragePool")
def _global_average_pool(n: OnnxNode) -> Operand:
    x = n.operand(0)
    return windows.global_avg_pool(n.builder, x, len(x.shape) - 2)


@LAYERS("GlobalMaxPool")
def _global_max_pool(n: OnnxNode) -> Operand:
    x = n.operand(0)
    return windows.global_max_pool(n.builder, x, len(x.shape) - 2)


# --- resizing ------------------------------------------------------------------------------------

ROUNDING: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _coordinates(mode: str, size: int, count: int, scale: np.float32, roi: tuple[float, float]) -> Array:
    """Where on the old axis (`size`) the entries of the new one (`count`) lie: Resize in the standard.

    In float32, as runtimes compute it: where the exact place is a tie, rounding decides what is read.
    """
    i, half, last = np.arange(count, dtype=np.float32), np.float32(0.5), np.float32(size - 1)
    if mode == "asymmetric":
        return i / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and count > 1):
        return (i + half) / scale - half
    if mode == "half_pixel_symmetric":
        adjust = np.float32(count) / (scale * np.float32(size))
        return np.float32(size) / 2 * (1 - adjust) + (i + half) / scale - half
    if mode == "tf_half_pixel_for_nn":
        return (i + half) / scale
    if mode == "align_corners" and count > 1:
        return i * last / np.float32(count - 1)
    if mode == "tf_crop_and_resize":
        start, end = np.float32(roi)
        if count == 1:
            return half * (start + end) * last + np.zeros(1, np.float32)
        return start * last + i * ((end - start) * last / np.float32(count - 1))
    if mode in ("pytorch_half_pixel", "align_corners"):
        return np.zeros(1, np.float32)
    raise ValueError(f"coordinate_transformation_mode {mode}")


@LAYERS("Upsample")
def _upsample(n: OnnxNode) -> Operand:
    """Opset 7 has `scales` as an attribute, opset 9 as an input; also Resize before opset 11."""
    given = n.constant(1)
    return _resize(n, n.attribute("scales", None) if given is None else given, None, "asymmetric", "simple")


@LAYERS("Resize")
def _resize_rule(n: OnnxNode) -> Operand:
    if n.opset < 11:
        return _upsample(n)
    coordinate = n.text("coordinate_transformation_mode", "half_pixel")
    return _resize(n, n.constant(2), n.constant(3), coordinate, n.text("nearest_mode", "round_prefer_floor"))


def _resize(n: OnnxNode, scales: Sequence | None, sizes: Array | None, coordinate: str, nearest: str) -> Operand:
    b, x = n.builder, n.operand(0)
    mode = n.text("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic") or n.attribute("antialias", 0):
        raise NotLowered(f"{mode} interpolation" + " with antialiasing" * bool(n.attribute("antialias", 0)))
    axes = [a % len(x.shape) for a in n.attribute("axes", range(len(x.shape)))]
    old = [x.shape[a] for a in axes]
    if sizes is not None and len(sizes):
        scales = [np.float32(new) / np.float32(size) for new, size in zip(sizes, old, strict=True)]
        policy = n.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            one = min(scales) if policy == "not_larger" else max(scales)
            scales, sizes = [one] * len(old), [int(np.floor(one * np.float32(size) + 0.5)) for size in old]
    elif scales is not None and len(scales):
        scales = [np.float32(s) for s in scales]
        sizes = [int(np.floor(np.float32(size) * s)) for size, s in zip(old, scales, strict=True)]
    else:
        raise ValueError("neither scales nor sizes are given")
    roi = n.constant(1) if coordinate == "tf_crop_and_resize" else None
    for i, (axis, size) in enumerate(zip(axes, old, strict=True)):
        ends = (0.0, 1.0) if roi is None else (float(roi[i]), float(roi[i + len(axes)]))
        if int(sizes[i]) == size and scales[i] == 1 and ends == (0.0, 1.0):
            continue
        places = _coordinates(coordinate, size, int(sizes[i]), scales[i], ends)
        simple = np.ceil if scales[i] < 1 else np.floor  # the standard leaves it open; onnxruntime does this
        rounding = simple if nearest == "simple" else ROUNDING[nearest]
        if mode == "linear":
            x = layers.along(b, x, axis, layers.interpolation(places, size))
        elif mode == "cubic":
            only = bool(n.attribute("exclude_outside", 0))
            matrix = layers.cubic(places, size, n.number("cubic_coeff_a", -0.75), inside_only=only)
            x = layers.along(b, x, axis, matrix)
        else:
            x = b.select(x, axis, np.clip(rounding(places), 0, size - 1).astype(np.int64))
        outside = (places < 0) | (places > size - 1)
        if roi is not None and outside.any():
            outside = outside.astype(np.float64).reshape(-1, *(1,) * (len(x.shape) - axis - 1))
            x = b.scale(x, 1 - outside, outside * n.number("extrapolation_value", 0.0))
    return x
