# SAKD (Qiu et al., Neural Networks 2024) on CIFAR, as the paper describes it. Level 1: start from the ANN's weights.
# Level 2: the four stages (constants of the released script, sakd_cifar_released.py) and the logits (tau as released;
# c is ours, since the script sets it to 0)
_base_ = './sakd_cifar_released.py'
distill = dict(
    transfer=True,
    losses=dict(loss_response=dict(type='LogitKL', tau=4.0, student='head.fc', teacher='head.fc', weight=1.0)),
)
