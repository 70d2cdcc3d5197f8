# Affine projector (Hu, Li and Deng, NCE 2025), a reconstruction, on classifiers: the pooled firing rates
distill = dict(
    losses=dict(
        loss_affine=dict(type='AffineMSE', student='neck', teacher='neck', connector=dict(type='Affine'), weight=1.0),
    ),
)
