# SAKD (Qiu et al., Neural Networks 2024) without a response, for models whose heads cannot be compared: queries (DETR,
# DINO, Mask2Former), boxes of a second stage, softmax over anchors (SSD, YOLACT). Level 1, and the four stages
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
    ),
)
