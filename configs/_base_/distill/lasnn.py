# LaSNN (Hong et al., 2023), a reconstruction, for any task: attention maps of the four stages; no projector, so that
# teacher and student need not be alike. Level 1 as in SAKD
distill = dict(
    transfer=True,
    losses=dict(
        loss_attention=dict(
            type='AttentionMSE',
            student=[f'backbone.layer{i}' for i in range(1, 5)],
            teacher=[f'backbone.layer{i}' for i in range(1, 5)],
            weight=1000.0,  # beta
        ),
    ),
)
