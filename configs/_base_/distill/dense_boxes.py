# The answers of dense heads, classes and boxes; our definition, and our weights
distill = dict(
    losses=dict(
        loss_classes=dict(type='DenseResponse', student='bbox_head[0]', teacher='bbox_head[0]', weight=1.0),
        loss_boxes=dict(
            type='BoxResponse',
            student=['bbox_head[0]', 'bbox_head[1]'],
            teacher=['bbox_head[0]', 'bbox_head[1]'],
            weight=1.0,
        ),
    ),
)
