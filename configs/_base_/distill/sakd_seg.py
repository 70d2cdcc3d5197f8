# SAKD (Qiu et al., Neural Networks 2024) on segmentors. Level 1: start from the ANN's weights. Level 2: the backbone's
# four stages (the paper's feature term) and the response of every pixel (our definition, the paper's segmentors are
# not public)
_base_ = './sakd_features.py'
distill = dict(
    losses=dict(
        loss_response=dict(type='PixelKL', student='decode_head.conv_seg', teacher='decode_head.conv_seg', weight=1.0),
    ),
)
