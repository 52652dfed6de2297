"""What the figures cannot say of a model that falls short: how it is made."""

NOTES = {
    "doctr:crnn": "two layers of LSTM read the columns of the line, and no pattern takes those",
    "timm:cait_xxs24_224": "talking heads: a linear layer over the heads is between the logits "
    "and the softmax, and another after it, so its two products are no attention kernel",
    "timm:convit_tiny": "gated positional attention: the attention weights are a mixture of two "
    "softmaxes, so its products are no attention kernel",
    "timm:gemma4_vit_167m": "it looks positions up by a product of one-hot vectors with a table",
    "timm:mvitv2_tiny": "relative positions are added to the logits in another shape, between two "
    "reshapes, and written back in place; the conversion of written-out attention does not see "
    "through that",
    "torchvision:mvit_v2_s": "relative positions are added by a function that tracing does not "
    "look into and that writes to the logits, so they are no attention kernel",
}
