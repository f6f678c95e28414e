"""The losses once more, row by row in numpy and double precision, and gradients by central differences."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp, softmax

Array = npt.NDArray[Any]
RNG_SEED = 7


def differences(function: Callable[[Array], float], at: Array, step: float = 1e-6) -> Array:
    """Return the gradient of a function by central differences."""
    gradient = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        ahead, behind = at.copy(), at.copy()
        ahead[place] += step
        behind[place] -= step
        gradient[place] = (function(ahead) - function(behind)) / (2 * step)
    return gradient


def l2(t: Array, s: Array) -> float:
    return float(np.mean((t - s) ** 2))


def soft_label(t: Array, s: Array, hot: float = 1.0, own: float = 1.0) -> float:
    rows = zip(t.reshape(-1, t.shape[-1]), s.reshape(-1, s.shape[-1]))
    return float(np.mean([-(softmax(a / hot) @ log_softmax(b / own)) for a, b in rows]))


def hard_label(label: Array, s: Array) -> float:
    return float(np.mean([-log_softmax(row)[k] for k, row in zip(label.reshape(-1), s)]))


def dkd(t: Array, s: Array, temperature: float, alpha: float, beta: float, label: Array | None = None) -> float:
    total = 0.0
    for index, (a, b) in enumerate(zip(t / temperature, s / temperature)):
        target = int(np.argmax(a)) if label is None else int(label.reshape(-1)[index])
        pairs = []
        for row in (a, b):
            logs = log_softmax(row)
            rest = np.delete(logs, target)
            pairs.append((np.array([logs[target], logsumexp(rest)]), rest - logsumexp(rest)))
        (t_binary, t_rest), (s_binary, s_rest) = pairs
        total += alpha * (np.exp(t_binary) @ (t_binary - s_binary)) + beta * (np.exp(t_rest) @ (t_rest - s_rest))
    return float(total / len(t) * temperature**2)


def skd(t: Array, s: Array, multiplier: float | None = None) -> float:
    rows = []
    for a, b in zip(t, s):
        factor = a.std(ddof=1) if multiplier is None else multiplier
        scaled = [(row - row.mean()) / np.sqrt(row.var() + 1e-7) * factor for row in (a, b)]
        rows.append(-(softmax(scaled[0]) @ log_softmax(scaled[1])))
    return float(np.mean(rows))


def _r(x: Array, y: Array) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float(x @ y / scale) if scale > 1e-20 else 0.0


def correlation(t: Array, s: Array, temperature: float, between: float, within: float) -> float:
    p, q = softmax(t / temperature, -1), softmax(s / temperature, -1)
    return between * (1 - float(np.mean([_r(a, b) for a, b in zip(p, q)]))) + within * (
        1 - float(np.mean([_r(a, b) for a, b in zip(p.T, q.T)]))
    )


def fsp(t1: Array, t2: Array, s1: Array, s2: Array) -> float:
    def flow(a: Array, b: Array) -> Array:
        return np.einsum('nchw,ndhw->ncd', a, b) / (a.shape[2] * a.shape[3])

    return l2(flow(t1, t2), flow(s1, s2))


def pooled(x: Array, height: int, width: int) -> Array:
    n, c, h, w = x.shape
    return x.reshape(n, c, height, h // height, width, w // width).mean((3, 5))


def attention_transfer(t: Array, s: Array, power: float = 2.0) -> float:
    height, width = min(t.shape[2], s.shape[2]), min(t.shape[3], s.shape[3])

    def attention(x: Array) -> Array:
        rows = pooled((np.abs(x) ** power).mean(1, keepdims=True), height, width).reshape(len(x), -1)
        return np.stack([row / (np.linalg.norm(row) or 1.0) for row in rows])

    return l2(attention(t), attention(s))


def cosine(t: Array, s: Array, axis: int = 1) -> float:
    a, b = (np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]) for x in (t, s))
    return float(np.mean([1 - u @ v / ((np.linalg.norm(u) * np.linalg.norm(v)) or 1.0) for u, v in zip(a, b)]))


def _huber(x: Array) -> Array:
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def rkd_distance(t: Array, s: Array) -> float:
    def distances(x: Array) -> Array:
        rows = x.reshape(len(x), -1)
        found = np.array([[np.linalg.norm(a - b) for b in rows] for a in rows])
        return found / (found[found > 0].mean() if (found > 0).any() else 1.0)

    return float(_huber(distances(s) - distances(t)).mean())


def rkd_angle(t: Array, s: Array) -> float:
    def angles(x: Array) -> Array:
        rows = x.reshape(len(x), -1)
        count = len(rows)
        found = np.zeros((count, count, count))
        for i, j, k in product(range(count), repeat=3):
            a, b = rows[j] - rows[i], rows[k] - rows[i]
            scale = np.linalg.norm(a) * np.linalg.norm(b)
            found[i, j, k] = a @ b / scale if scale else 0.0
        return found

    return float(_huber(angles(s) - angles(t)).mean())


def similarity(t: Array, s: Array) -> float:
    def matrix(x: Array) -> Array:
        rows = x.reshape(len(x), -1)
        return np.stack([row / (np.linalg.norm(row) or 1.0) for row in rows @ rows.T])

    return l2(matrix(t), matrix(s))
