"""Layers with parameters, normalisation and attention, all of them modules."""

import torch
import torch.nn.functional as F
from torch import nn

from embedl_deploy.graph import layer_makers as makers
from embedl_deploy.graph.rows import ModuleRow

_CONVOLUTIONS = tuple(
    ModuleRow(
        function.__name__,
        "input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1",
        (function,),
        make=makers.conv(kind),
    )
    for function, kind in (
        (torch.conv1d, nn.Conv1d),
        (torch.conv2d, nn.Conv2d),
        (torch.conv3d, nn.Conv3d),
    )
)

_TRANSPOSED = tuple(
    ModuleRow(
        function.__name__,
        "input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1",
        (function,),
        make=makers.conv_transpose(kind),
    )
    for function, kind in (
        (torch.conv_transpose1d, nn.ConvTranspose1d),
        (torch.conv_transpose2d, nn.ConvTranspose2d),
        (torch.conv_transpose3d, nn.ConvTranspose3d),
    )
)

_NORMS = (
    ModuleRow(
        "batch_norm",
        "input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, "
        "eps=1e-05",
        (F.batch_norm,),
        make=makers.batch_norm,
        ranked=True,
    ),
    ModuleRow(
        "instance_norm",
        "input, running_mean=None, running_var=None, weight=None, bias=None, "
        "use_input_stats=True, momentum=0.1, eps=1e-05",
        (F.instance_norm,),
        make=makers.instance_norm,
        ranked=True,
    ),
    ModuleRow(
        "layer_norm",
        "input, normalized_shape, weight=None, bias=None, eps=1e-05, cudnn_enable=True",
        (F.layer_norm, torch.layer_norm),
        make=makers.layer_norm,
    ),
    ModuleRow(
        "rms_norm",
        "input, normalized_shape, weight=None, eps=None",
        (F.rms_norm, torch.rms_norm),
        make=makers.rms_norm,
    ),
    ModuleRow(
        "group_norm",
        "input, num_groups, weight=None, bias=None, eps=1e-05, cudnn_enabled=True",
        (F.group_norm, torch.group_norm),
        make=makers.group_norm,
    ),
)

LAYERS = (
    *_CONVOLUTIONS,
    *_TRANSPOSED,
    *_NORMS,
    ModuleRow("linear", "input, weight, bias=None", (F.linear,), make=makers.linear),
    ModuleRow(
        "bilinear",
        "input1, input2, weight, bias=None",
        (F.bilinear,),
        make=makers.bilinear,
        inputs=2,
    ),
    ModuleRow(
        "embedding",
        "input, weight, padding_idx=None, max_norm=None, norm_type=2.0, "
        "scale_grad_by_freq=False, sparse=False",
        (F.embedding,),
        make=makers.embedding,
    ),
    ModuleRow(
        "attention",
        "query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, "
        "enable_gqa=False",
        (F.scaled_dot_product_attention,),
        make=makers.attention,
        inputs=4,
    ),
    ModuleRow(
        "multi_head_attention",
        "query, key, value, embed_dim_to_check, num_heads, in_proj_weight, in_proj_bias, bias_k, "
        "bias_v, add_zero_attn, dropout_p, out_proj_weight, out_proj_bias, training=True, "
        "key_padding_mask=None, need_weights=True, attn_mask=None, use_separate_proj_weight=False, "
        "q_proj_weight=None, k_proj_weight=None, v_proj_weight=None, static_k=None, "
        "static_v=None, average_attn_weights=True, is_causal=False",
        (F.multi_head_attention_forward,),
        make=makers.multi_head_attention,
        inputs=(
            *("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask"),
            *("average_attn_weights", "is_causal"),
        ),
    ),
)
