# BKD (BKDSNN, Xu et al., ECCV 2024) for spiking transformers, taught by a ViT: what enters the student's classifier,
# before the spatial mean, is restored from a blurred map; its mean meets the ViT's class token
distill = dict(
    losses=dict(
        loss_blur=dict(
            type='BlurMSE',
            student='backbone[0]',
            teacher='backbone[0]',
            connector=dict(type='BlurRestore', ratio=0.15, reduce='mean'),
            weight=2e-3,  # alpha
        ),
        loss_soft=dict(
            type='WeightedSoftLabels',
            tau=2.0,
            label_smooth=0.1,  # as the student's own loss
            student='head.fc',
            teacher='head.layers.head',
            weight=1.0,
        ),
    ),
)
