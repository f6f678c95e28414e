"""The rows in which the vocabularies of Paddle's two IRs meet; see :mod:`paddleslim_ng.core.op_table` for the lookups.

Each row says, for one PIR operator,

* its canonical type,
* its operands in order: a canonical slot, or ``@name`` where the operand carries the attribute ``name``,
* its results in order, as canonical slots,
* attributes whose PIR name differs, as ``{canonical: pir}``,
* canonical attributes that PIR fixes by the choice of operator or leaves implicit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ['ROWS', 'OpRow']


@dataclass(frozen=True)
class OpRow:
    """Correspondence of one PIR operator with its canonical form.

    Attributes:
        type: canonical operator type.
        operands: canonical slot or ``@attribute`` for each PIR operand.
        results: canonical slot for each PIR result.
        attrs: ``{canonical attribute: PIR attribute}`` where the names differ.
        defaults: canonical attributes that PIR fixes by the choice of operator.
        derived: canonical attributes that follow from others; each function takes a reader of attributes.
    """

    type: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    attrs: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    derived: Mapping[str, Callable[[Callable[[str], object]], object]] = field(default_factory=dict)

    def operand_of(self, attribute: str) -> int | None:
        """Return the index of the operand that carries ``attribute``, or None where it is a plain attribute."""
        key = '@' + attribute
        return self.operands.index(key) if key in self.operands else None


def _row(
    type: str, operands: str, results: str = 'Out', defaults: Mapping[str, object] | None = None, **attrs: str
) -> OpRow:
    return OpRow(type, tuple(operands.split()), tuple(results.split()), attrs, defaults or {})


def _reduce_row(type: str, operands: str, **attrs: str) -> OpRow:
    derived = {'reduce_all': lambda read: not read('dim')}
    return OpRow(type, tuple(operands.split()), ('Out',), {'keep_dim': 'keepdim', **attrs}, derived=derived)


_BINARY = {
    'add': 'elementwise_add',
    'subtract': 'elementwise_sub',
    'multiply': 'elementwise_mul',
    'divide': 'elementwise_div',
    'maximum': 'elementwise_max',
    'minimum': 'elementwise_min',
    'fmax': 'elementwise_fmax',
    'fmin': 'elementwise_fmin',
    'elementwise_pow': 'elementwise_pow',
    'remainder': 'elementwise_mod',
    'floor_divide': 'elementwise_floordiv',
    'heaviside': 'elementwise_heaviside',
}
_REDUCE = {'mean': 'reduce_mean', 'sum': 'reduce_sum', 'max': 'reduce_max', 'min': 'reduce_min', 'prod': 'reduce_prod'}
_REDUCE_BY_ATTRIBUTE = {'amax': 'reduce_amax', 'amin': 'reduce_amin', 'all': 'reduce_all', 'any': 'reduce_any'}
_INTERP = ('nearest_interp', 'bilinear_interp', 'bicubic_interp', 'linear_interp', 'trilinear_interp')
_RENAMED_UNARY = {
    'hardsigmoid': 'hard_sigmoid',
    'hardshrink': 'hard_shrink',
    'isnan': 'isnan_v2',
    'isinf': 'isinf_v2',
    'isfinite': 'isfinite_v2',
    'mean_all': 'mean',
}
_COMPARE = ('equal', 'not_equal', 'less_than', 'less_equal', 'greater_than', 'greater_equal')
_ADAM = (
    'Param Grad LearningRate Moment1 Moment2 Moment2Max Beta1Pow Beta2Pow MasterParam SkipUpdate @beta1 @beta2 @epsilon'
)
_ADAM_OUT = 'ParamOut Moment1Out Moment2Out Moment2MaxOut Beta1PowOut Beta2PowOut MasterParamOut'
_LSTM_LIKE = 'Input PreState WeightList SequenceLength DropoutStateIn'

ROWS: Mapping[str, OpRow] = {
    **{pir: _row(legacy, 'X Y', defaults={'axis': -1}) for pir, legacy in _BINARY.items()},
    **{pir: _reduce_row(legacy, 'X @dim') for pir, legacy in _REDUCE.items()},
    **{pir: _reduce_row(legacy, 'X', dim='axis') for pir, legacy in _REDUCE_BY_ATTRIBUTE.items()},
    **{pir: _row(pir + '_v2', 'X OutSize SizeTensor Scale', data_layout='data_format') for pir in _INTERP},
    **{pir: _row(legacy, 'X') for pir, legacy in _RENAMED_UNARY.items()},
    **{name: _row(name, 'X Y', defaults={'axis': -1}) for name in _COMPARE},
    'conv2d': _row('conv2d', 'Input Filter', 'Output'),
    'conv3d': _row('conv3d', 'Input Filter', 'Output'),
    'depthwise_conv2d': _row('depthwise_conv2d', 'Input Filter', 'Output'),
    'conv2d_transpose': _row('conv2d_transpose', 'Input Filter @output_size', 'Output'),
    'conv3d_transpose': _row('conv3d_transpose', 'Input Filter', 'Output'),
    'depthwise_conv2d_transpose': _row('depthwise_conv2d_transpose', 'Input Filter @output_size', 'Output'),
    'matmul': _row('matmul_v2', 'X Y', trans_x='transpose_x', trans_y='transpose_y'),
    'matmul_with_flatten': _row('mul', 'X Y'),
    'bmm': _row('bmm', 'X Y'),
    'mv': _row('mv', 'X Vec'),
    'dot': _row('dot', 'X Y'),
    'addmm': _row('addmm', 'Input X Y', Alpha='alpha', Beta='beta'),
    'bilinear': _row('bilinear_tensor_product', 'X Y Weight Bias'),
    'einsum': _row('einsum', 'Operands', 'Out InnerCache XShape'),
    'embedding': _row('lookup_table_v2', 'Ids W'),
    'rnn': _row('rnn', _LSTM_LIKE, 'Out DropoutState State Reserve'),
    'batch_norm': _row(
        'batch_norm',
        'X Mean Variance Scale Bias',
        'Y MeanOut VarianceOut SavedMean SavedVariance ReserveSpace',
        data_layout='data_format',
    ),
    'sync_batch_norm': _row(
        'sync_batch_norm',
        'X Mean Variance Scale Bias',
        'Y MeanOut VarianceOut SavedMean SavedVariance ReserveSpace',
        data_layout='data_format',
    ),
    'layer_norm': _row('layer_norm', 'X Scale Bias', 'Y Mean Variance'),
    'rms_norm': _row('rms_norm', 'X Scale', 'Y InvVar'),
    'instance_norm': _row('instance_norm', 'X Scale Bias', 'Y SavedMean SavedVariance'),
    'group_norm': _row('group_norm', 'X Scale Bias', 'Y Mean Variance', data_layout='data_format'),
    'prelu': _row('prelu', 'X Alpha'),
    'leaky_relu': _row('leaky_relu', 'X', alpha='negative_slope'),
    'hardtanh': _row('brelu', 'X'),
    'relu6': _row('relu6', 'X', defaults={'threshold': 6.0}),
    'hardswish': _row('hard_swish', 'X', defaults={'threshold': 6.0, 'scale': 6.0, 'offset': 3.0}),
    'mish': _row('mish', 'X', threshold='lambda'),
    'softshrink': OpRow('softshrink', ('X',), ('Out',), {'lambda': 'threshold'}),
    'stanh': _row('stanh', 'X'),
    'pow': _row('pow', 'X', factor='y'),
    'scale': _row('scale', 'X @scale'),
    'clip': _row('clip', 'X @min @max'),
    'cast': _row('cast', 'X', out_dtype='dtype'),
    'dropout': _row('dropout', 'X Seed @dropout_prob', 'Out Mask', dropout_implementation='mode'),
    'softmax': _row('softmax', 'X'),
    'log_softmax': _row('log_softmax', 'X'),
    'cross_entropy_with_softmax': _row('softmax_with_cross_entropy', 'Logits Label', 'Softmax Loss'),
    'accuracy': _row('accuracy', 'Out Indices Label', 'Accuracy Correct Total'),
    'topk': _row('top_k_v2', 'X @k', 'Out Indices'),
    'argmax': _row('arg_max', 'X @axis'),
    'argmin': _row('arg_min', 'X @axis'),
    'argsort': _row('argsort', 'X', 'Out Indices'),
    'one_hot': _row('one_hot_v2', 'X @depth', defaults={'allow_out_of_range': False}),
    'label_smooth': _row('label_smooth', 'X PriorDist'),
    'bce_loss': _row('bce_loss', 'X Label'),
    'huber_loss': _row('huber_loss', 'X Y', 'Out Residual'),
    'kldiv_loss': _row('kldiv_loss', 'X Target', 'Loss'),
    'nll_loss': _row('nll_loss', 'X Label Weight', 'Out Total_weight'),
    'log_loss': _row('log_loss', 'Predicted Labels', 'Loss'),
    'sigmoid_cross_entropy_with_logits': _row('sigmoid_cross_entropy_with_logits', 'X Label pos_weight'),
    'warpctc': _row('warpctc', 'Logits Label LogitsLength LabelLength', 'Loss WarpCTCGrad'),
    'pool2d': _row('pool2d', 'X @ksize'),
    'pool3d': _row('pool3d', 'X', ksize='kernel_size'),
    'max_pool2d_with_index': _row('max_pool2d_with_index', 'X', 'Out Mask', ksize='kernel_size'),
    'pad': _row('pad', 'X @pad_value'),
    'pad3d': _row('pad3d', 'X @paddings', value='pad_value'),
    'concat': _row('concat', 'X @axis'),
    'stack': _row('stack', 'X', 'Y'),
    'unstack': _row('unstack', 'X', 'Y'),
    'unbind': _row('unbind', 'X'),
    'split': _row('split', 'X @sections @axis', defaults={'num': 0}),
    'split_with_num': _row('split', 'X @axis', defaults={'sections': []}),
    'slice': _row('slice', 'Input @starts @ends'),
    'strided_slice': _row('strided_slice', 'Input @starts @ends @strides', defaults={'decrease_axis': []}),
    'crop': _row('crop_tensor', 'X @shape @offsets'),
    'gather': _row('gather', 'X Index @axis'),
    'gather_nd': _row('gather_nd', 'X Index'),
    'index_select': _row('index_select', 'X Index', dim='axis'),
    'index_sample': _row('index_sample', 'X Index'),
    'take_along_axis': _row('take_along_axis', 'Input Index', 'Result', Axis='axis'),
    'put_along_axis': _row(
        'put_along_axis', 'Input Index Value', 'Result', Axis='axis', Reduce='reduce', Include_self='include_self'
    ),
    'scatter': _row('scatter', 'X Ids Updates'),
    'masked_select': _row('masked_select', 'X Mask', 'Y'),
    'meshgrid': _row('meshgrid', 'X'),
    'diagonal': _row('diagonal', 'Input'),
    'diag': _row('diag_v2', 'X'),
    'det': _row('determinant', 'Input'),
    'slogdet': _row('slogdeterminant', 'Input'),
    'set_value': _row('set_value', 'Input @starts @ends @steps'),
    'set_value_with_tensor': _row('set_value', 'Input ValueTensor @starts @ends @steps'),
    'tril': _row('tril_triu', 'X', defaults={'lower': True}),
    'triu': _row('tril_triu', 'X', defaults={'lower': False}),
    'nonzero': _row('where_index', 'Condition'),
    'reshape': _row('reshape2', 'X @shape', 'Out XShape'),
    'transpose': _row('transpose2', 'X', 'Out XShape', axis='perm'),
    'flatten': _row('flatten_contiguous_range', 'X', 'Out XShape'),
    'pixel_shuffle': _row('pixel_shuffle', 'X'),
    'affine_grid': _row('affine_grid', 'Theta @output_shape', 'Output'),
    'squeeze': _row('squeeze2', 'X @axes', 'Out XShape'),
    'unsqueeze': _row('unsqueeze2', 'X @axes', 'Out XShape'),
    'expand': _row('expand_v2', 'X @shape'),
    'expand_as': _row('expand_as_v2', 'X Y'),
    'tile': _row('tile', 'X @repeat_times'),
    'repeat_interleave': _row('repeat_interleave', 'X', Repeats='repeats', dim='axis'),
    'roll': _row('roll', 'X @shifts'),
    'flip': _row('flip', 'X'),
    'cumsum': _row('cumsum', 'X @axis'),
    'p_norm': _row('p_norm', 'X'),
    'frobenius_norm': _row('frobenius_norm', 'X @dim'),
    'where': _row('where', 'Condition X Y'),
    'add_n': _row('sum', 'X'),
    'maxout': _row('maxout', 'X'),
    'unfold': _row('unfold', 'X', 'Y'),
    'grid_sample': _row('grid_sampler', 'X Grid', 'Output'),
    'shape': _row('shape', 'Input'),
    'shape64': _row('shape', 'Input'),
    'numel': _row('size', 'Input'),
    'assign': _row('assign', 'X'),
    'assign_out': _row('assign', 'X Output'),
    'assign_value': _row('assign_value', '@output'),
    'share_data': _row('share_data', 'X'),
    'increment': _row('increment', 'X', step='value'),
    'full': _row('fill_constant', ''),
    'full_int_array': _row('fill_constant', ''),
    'full_with_tensor': _row('fill_constant', '@value @shape'),
    'full_like': _row('fill_any_like', 'X @value'),
    'arange': _row('range', 'Start End Step'),
    'linspace': _row('linspace', 'Start Stop Num'),
    'eye': _row('eye', '@num_rows @num_columns'),
    'full_batch_size_like': _row('fill_constant_batch_size_like', 'Input'),
    'uniform': _row('uniform_random', '@shape @min @max'),
    'gaussian': _row('gaussian_random', '@shape'),
    'randint': _row('randint', '@shape'),
    'multinomial': _row('multinomial', 'X @num_samples'),
    'roi_align': _row('roi_align', 'X ROIs RoisNum'),
    'nms': _row('nms', 'Boxes', 'KeepBoxesIdxs', iou_threshold='threshold'),
    'adam': _row('adam', _ADAM, _ADAM_OUT),
    'adamw': _row('adamw', _ADAM, _ADAM_OUT),
    'adadelta': _row(
        'adadelta',
        'Param Grad AvgSquaredGrad AvgSquaredUpdate LearningRate MasterParam',
        'ParamOut AvgSquaredGradOut AvgSquaredUpdateOut MasterParamOut',
    ),
    'fetch': _row('fetch', 'X'),
    'conv2d_grad': _row('conv2d_grad', 'Input Filter Output@GRAD', 'Input@GRAD Filter@GRAD'),
    'depthwise_conv2d_grad': _row('depthwise_conv2d_grad', 'Input Filter Output@GRAD', 'Input@GRAD Filter@GRAD'),
    'conv3d_grad': _row('conv3d_grad', 'Input Filter Output@GRAD', 'Input@GRAD Filter@GRAD'),
    'conv2d_transpose_grad': _row('conv2d_transpose_grad', 'Input Filter Output@GRAD', 'Input@GRAD Filter@GRAD'),
    'slice_grad': _row('slice_grad', 'Input Out@GRAD @starts @ends', 'Input@GRAD'),
    'strided_slice_grad': _row('strided_slice_grad', 'Input Out@GRAD @starts @ends @strides', 'Input@GRAD'),
    'expand_grad': _row('expand_v2_grad', 'X Out@GRAD @shape', 'X@GRAD'),
    'group_norm_grad': _row(
        'group_norm_grad',
        'X Scale Bias Y Mean Variance Y@GRAD',
        'X@GRAD Scale@GRAD Bias@GRAD',
        data_layout='data_format',
    ),
    'maxout_grad': _row('maxout_grad', 'X Out Out@GRAD', 'X@GRAD'),
    'repeat_interleave_grad': _row('repeat_interleave_grad', 'X Out@GRAD', 'X@GRAD', Repeats='repeats', dim='axis'),
}
