"""Operator types by what they do to elements: the rows behind cost conventions and shape rules."""

from __future__ import annotations

from typing import Final

__all__ = [
    'ELEMENTWISE',
    'FREE',
    'HIDDEN_WORK',
    'HIDDEN_WORK_WORDS',
    'INTERPOLATION',
    'KEEPS_LEADING_AXIS',
    'NORMALIZATION',
    'PARAMETER_READERS',
    'POOLING',
    'REDUCTION',
]


def _types(names: str) -> frozenset[str]:
    return frozenset(names.split())


# One result per element, activations included.
ELEMENTWISE: Final = _types(
    """
    abs acos acosh affine_channel angle asin asinh atan atan2 atanh bce_loss bitwise_and bitwise_left_shift
    bitwise_not bitwise_or bitwise_right_shift bitwise_xor brelu ceil celu clip copysign cos cosh cross_entropy
    cross_entropy2 cumsum cumprod digamma dropout elementwise_add elementwise_div elementwise_floordiv
    elementwise_fmax elementwise_fmin elementwise_heaviside elementwise_max elementwise_min elementwise_mod
    elementwise_mul elementwise_pow elementwise_sub elu equal erf erfinv exp expm1 floor fused_dropout_add
    fused_softmax_mask fused_softmax_mask_upper_triangle gelu greater_equal greater_than gumbel_softmax hard_shrink
    hard_sigmoid hard_swish hinge_loss huber_loss i0 i0e i1 i1e identity_loss isclose isfinite_v2 isinf_v2 isnan_v2
    isfinite isinf isnan kldiv_loss label_smooth leaky_relu lerp less_equal less_than lgamma log log10 log1p log2
    log_loss log_softmax logical_and logical_not logical_or logical_xor logit logsigmoid masked_fill maxout mish
    multiplex nextafter nll_loss not_equal pow prelu reciprocal relu relu6 rint round rrelu rsqrt scale selu sigmoid
    sigmoid_cross_entropy_with_logits sign silu sin sinh smooth_l1_loss softmax softmax_mask_fuse
    softmax_mask_fuse_upper_triangle softmax_with_cross_entropy softplus softshrink softsign sqrt square stanh sum
    swiglu swish tan tanh tanh_shrink temporal_shift thresholded_relu tril_triu trunc where
    """
)
NORMALIZATION: Final = _types(
    """
    batch_norm data_norm fast_ln fast_rms_norm group_norm inplace_abn instance_norm layer_norm lrn norm p_norm
    rms_norm spectral_norm sync_batch_norm
    """
)
POOLING: Final = _types('lp_pool2d max_pool2d_with_index max_pool3d_with_index pool2d pool3d')
REDUCTION: Final = _types(
    """
    accuracy arg_max arg_min auc clip_by_norm frobenius_norm kthvalue l1_norm logsumexp mean mean_all median mode
    reduce_all reduce_amax reduce_amin reduce_any reduce_max reduce_mean reduce_min reduce_prod reduce_sum
    squared_l2_norm top_k top_k_v2 trace variance std
    """
)
# Taps per result.
INTERPOLATION: Final[dict[str, int]] = {
    'bicubic_interp_v2': 16,
    'bilinear_interp_v2': 4,
    'grid_sampler': 4,
    'linear_interp_v2': 2,
    'nearest_interp_v2': 1,
    'trilinear_interp_v2': 8,
}
# Moves, looks up, makes or compares elements without arithmetic worth the name.
FREE: Final = _types(
    """
    affine_grid allclose anchor_generator arange argsort array_length array_read array_to_tensor array_write
    as_complex as_real as_strided assert assign assign_value bernoulli bincount box_clip box_coder broadcast_tensors
    cast channel_shuffle check_finite_and_unscale coalesce_tensor complex concat conj create_array create_array_like
    crop crop_tensor depend diag_embed diag_v2 diagonal dequantize_linear empty empty_like equal_all expand expand_as
    expand_as_v2 expand_v2 eye fake_channel_wise_dequantize_max_abs fake_channel_wise_quantize_abs_max
    fake_channel_wise_quantize_dequantize_abs_max fake_dequantize_max_abs fake_quantize_abs_max
    fake_quantize_dequantize_abs_max fake_quantize_dequantize_moving_average_abs_max
    fake_quantize_moving_average_abs_max fake_quantize_range_abs_max fill_any_like fill_constant
    fill_constant_batch_size_like fill_diagonal fill_zeros_like flatten flatten2 flatten_contiguous_range flip fold
    full_int_array gather gather_nd gather_tree gaussian gaussian_random generate_proposals generate_proposals_v2
    histogram imag increment index_add index_put index_sample index_select is_empty linspace lod_reset lookup_table
    lookup_table_v2 lod_array_length masked_select matrix_nms memcpy memcpy_d2h memcpy_h2d meshgrid
    moving_average_abs_max_scale multiclass_nms multiclass_nms2 multiclass_nms3 nonzero one_hot one_hot_v2 pad pad2d
    pad3d pixel_shuffle pixel_unshuffle print prior_box psroi_pool put_along_axis quantize_linear randint
    random_routing randperm range range_v2 read_from_array real repeat_interleave reshape reshape2 reverse roi_align
    roi_pool roll scatter scatter_nd_add searchsorted select_input select_output sequence_mask set_value
    set_value_with_tensor shadow_feed shadow_output shape share_data shuffle_channel size slice space_to_depth split
    squeeze squeeze2 stack strided_slice take_along_axis tensor_array_to_tensor tile transpose transpose2 tril_indices
    triu_indices truncated_gaussian_random unbind unfold uniform uniform_random uniform_random_batch_size_like unique
    unique_consecutive unpool unsqueeze unsqueeze2 unstack update_loss_scaling view_dtype view_shape where_index
    write_to_array yolo_box yolo_loss yolov3_loss
    """
)
# Known to contain products that no row of the cost table describes.
HIDDEN_WORK: Final = _types(
    """
    addcmul attention_lstm batched_gemm block_multihead_attention cholesky cholesky_solve correlation cross
    crf_decoding cudnn_lstm dynamic_gru dynamic_lstm eig eigh eigvals eigvalsh fused_attention fused_bias_act
    fused_embedding_eltwise_layernorm fused_feedforward fused_multi_transformer fusion_gru fusion_lstm gru gru_unit
    hsigmoid_loss hierarchical_sigmoid inverse kron linear_chain_crf lstm lstm_unit lstmp lstsq lu
    margin_cross_entropy matrix_power multi_dot multi_gru multihead_matmul nce py_func py_layer pyramid_hash qr
    recurrent resnet_basic_block resnet_unit row_conv run_program self_dp_attention sequence_conv skip_layernorm solve
    squeeze_excitation_block static_pylayer svd triangular_solve tree_conv viterbi_decode warpctc warprnnt
    """
)
HIDDEN_WORK_WORDS: Final = (
    'attention',
    'attn',
    'conv',
    'engine',
    'fft',
    'gemm',
    'gru',
    'linear',
    'lstm',
    'matmul',
    'moe',
    'rnn',
)
# May read a parameter with two axes or more without multiplying by it as a matrix.
PARAMETER_READERS: Final = ELEMENTWISE | NORMALIZATION | REDUCTION | FREE
# Operators whose leading output axis is that of their inputs, unless their axes say otherwise.
KEEPS_LEADING_AXIS: Final = (
    ELEMENTWISE
    | NORMALIZATION
    | POOLING
    | frozenset(INTERPOLATION)
    | _types(
        """
        arg_max arg_min argsort assign bilinear_tensor_product bmm cast channel_shuffle concat conv2d conv2d_transpose
        conv3d conv3d_transpose deformable_conv deformable_conv_v1 depthwise_conv2d depthwise_conv2d_transpose
        fill_any_like fill_zeros_like flash_attn fc lookup_table lookup_table_v2 matmul matmul_v2 matmul_with_flatten
        mul one_hot_v2 pad2d pad3d pixel_shuffle pixel_unshuffle reduce_max reduce_mean reduce_min reduce_prod
        reduce_sum shuffle_channel slice split strided_slice top_k_v2
        """
    )
)
