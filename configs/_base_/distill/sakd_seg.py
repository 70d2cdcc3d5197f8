# SAKD (Qiu et al., Neural Networks 2024) on segmentors. Level 1: start from the ANN's weights. Level 2: the backbone's
# four stages (the paper's feature term) and the response of every pixel (our definition, the paper's segmentors are
# not public)
distill = dict(
    transfer=True,
    losses=dict(
        loss_feature=dict(
            type='FeatureMSE',
            student=[f'backbone.layer{i}' for i in range(1, 5)],
            teacher=[f'backbone.layer{i}' for i in range(1, 5)],
            connector=dict(type='ConvBN'),
            weight=1.0,
        ),
        # a head's own call is not seen while training: tap the layer inside it
        loss_response=dict(type='PixelKL', student='decode_head.conv_seg', teacher='decode_head.conv_seg', weight=1.0),
    ),
)
