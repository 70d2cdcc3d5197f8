# SAKD (Qiu et al., Neural Networks 2024) on two-stage detectors. Level 1: start from the ANN's weights. Level 2: the
# backbone's four stages (the paper's feature term) and the response of the RPN (our definition, the paper's detectors
# are not public)
_base_ = './sakd_features.py'
distill = dict(
    losses=dict(
        loss_response=dict(
            type='DenseResponse', head='rpn_head', student='rpn_head[0]', teacher='rpn_head[0]', weight=1.0
        ),
    ),
)
