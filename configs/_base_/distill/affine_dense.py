# Affine projector (Hu, Li and Deng, NCE 2025), a reconstruction, on detectors and segmentors: ours, the paper
# classifies only. The last stage, position by position
distill = dict(
    losses=dict(
        loss_affine=dict(
            type='AffineMSE',
            student='backbone.layer4',
            teacher='backbone.layer4',
            connector=dict(type='Affine'),
            weight=1.0,
        ),
    ),
)
