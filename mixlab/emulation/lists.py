"""CUDA's autocast lists: which aten ops it computes in which format.

Names and rules are from PyTorch's ATen/autocast_mode.h (AT_FORALL_*), and from the further registrations for CUDA in
autocast_mode.cpp and cudnn/AutocastRNN.cpp. A name is an op's name, with a dot and the overload if it has one.
"""

from __future__ import annotations


def names(text: str) -> frozenset[str]:
    """Returns the words of a text; long lists of ops read better without quotes."""
    return frozenset(text.split())


# lower_precision_fp: all operands are cast to the format of autocast.
COMPUTE_OPS = names("""
    _convolution _convolution.deprecated convolution conv1d conv2d conv3d conv_tbc
    conv_transpose1d conv_transpose2d.input conv_transpose3d.input
    prelu addmm addmv addr matmul einsum mm mv linalg_vecdot linear addbmm baddbmm bmm chain_matmul linalg_multi_dot
    _thnn_fused_lstm_cell _thnn_fused_gru_cell lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
    _scaled_dot_product_flash_attention scaled_dot_product_attention
""")

# Recurrent layers. CUDA casts in cuDNN's op, _cudnn_rnn. A CPU has other kernels, so the ops that call them are cast.
RECURRENT_OPS = names("""
    lstm.input lstm.data gru.input gru.data rnn_tanh.input rnn_tanh.data rnn_relu.input rnn_relu.data
""")

# fp32: all operands are cast to float32.
FLOAT32_OPS = names("""
    acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan
    pow.Tensor_Scalar pow.Tensor_Tensor pow.Scalar softplus
    layer_norm native_layer_norm rms_norm group_norm frobenius_norm.dim nuclear_norm nuclear_norm.dim
    cosine_similarity poisson_nll_loss cosine_embedding_loss nll_loss nll_loss2d hinge_embedding_loss kl_div l1_loss
    smooth_l1_loss huber_loss mse_loss margin_ranking_loss multilabel_margin_loss soft_margin_loss triplet_margin_loss
    multi_margin_loss binary_cross_entropy_with_logits dist pdist cdist renorm logsumexp
    upsample_nearest1d _upsample_nearest_exact1d upsample_nearest2d _upsample_nearest_exact2d upsample_nearest3d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d _upsample_bilinear2d_aa upsample_trilinear3d
    upsample_bicubic2d _upsample_bicubic2d_aa
""")

# fp32_set_opt_dtype: operands stay as they are, and the result is requested in float32 if the caller names no dtype.
FLOAT32_RESULT_OPS = names("""
    prod prod.dim_int softmax.int log_softmax.int cumprod cumsum
    linalg_vector_norm linalg_matrix_norm linalg_matrix_norm.str_ord sum sum.dim_IntList
""")

# fp32_append_dtype: the same for overloads that take no dtype, by calling those that do.
FLOAT32_RESULT_OVERLOADS = {"norm.Scalar": "norm.ScalarOpt_dtype", "norm.ScalarOpt_dim": "norm.ScalarOpt_dim_dtype"}

# promote: all operands are cast to the widest format among them.
WIDEST_OPS = names("addcdiv addcmul atan2 bilinear cross dot vdot grid_sampler index_put tensordot scatter_add")

# The op raises.
BANNED_OPS = names("binary_cross_entropy")

# On no list. CUDA's kernels take 16 bits and round once; a CPU has no such kernel, or rounds after each addition.
ROUNDED_ONCE_OPS = names("avg_pool3d adaptive_avg_pool3d rrelu")

RULES = {
    "compute": COMPUTE_OPS | RECURRENT_OPS,
    "float32": FLOAT32_OPS,
    "float32 result": FLOAT32_RESULT_OPS,
    "float32 overload": frozenset(FLOAT32_RESULT_OVERLOADS),
    "widest": WIDEST_OPS,
    "banned": BANNED_OPS,
}
