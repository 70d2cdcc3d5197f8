# SAKD by the schedule of the released code, not by the paper's: beta is 10 in the first 11 iterations of every epoch,
# then 0.01. The released script dies before it trains, and never puts its teacher into eval mode; ours is in it
_base_ = './sakd_imagenet.py'
distill = dict(losses=dict(loss_feature=dict(weight=dict(milestones=[11], by='iter_in_epoch'))))
