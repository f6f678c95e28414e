"""What Paddle itself cannot build or train on a configuration, with a piece of its own error."""

from __future__ import annotations

from collections.abc import Mapping

UNBUILDABLE: Mapping[str, Mapping[str, str]] = {
    # CPU builds of Paddle have no kernels of these two layers.
    'pir': {'sync_batch_norm': 'sync_batch_norm_', 'fused_rms_norm': 'rms_norm'},
    # These Python functions of Paddle 3.3 take PIR values only, and no single legacy operator stands for them.
    'legacy': {
        'unary_nan_to_num': 'has not been registered',
        'unary_sgn': 'has not been registered',
        'lerp': 'is_cuda',
        'normalize_channels': 'maximum(): argument',
        'normalize_width': 'maximum(): argument',
        'cosine_similarity': 'multiply(): argument',
        'glu': 'sigmoid(): argument',
        'sync_batch_norm': 'has not been registered',
        'fused_rms_norm': 'rms_norm(): argument',
        'local_response_norm': 'multiply(): argument',
        'multi_head_layer': 'matmul(): argument',
        'std_spatial': 'sum(): argument',
        'var_spatial': 'sum(): argument',
        'var_channels': 'sum(): argument',
    },
    '2.6': {
        'sync_batch_norm': 'has not been registered',
        'fused_rms_norm': 'rms_norm(): argument',
        'lp_pool': 'lp_pool2d',
        'scatter_rows': 'scatter',
    },
}

WRONG_GRADIENT: Mapping[str, Mapping[str, str]] = {
    'pir': {},
    'legacy': {},
    '2.6': {
        'gather': 'the gradient of gather is wrong on axes other than the first',
        'gather_width': 'the gradient of gather is wrong on axes other than the first',
        'gather_shared_index': 'the gradient of gather is wrong on axes other than the first',
        'einsum_ellipsis': 'the gradient of einsum fails where the equation has an ellipsis',
    },
}
