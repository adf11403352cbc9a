"""A user's own network beside the config: the tiny one, with a fault that shows only when it is trained."""

import os

from timm.models.efficientnet import EfficientNet

from pipeline.networks.small import tiny


class Fragile(EfficientNet):
    """`fault` is null, `raise` or `die`."""

    def forward(self, images):
        if self.training and self.fault == "raise":
            raise RuntimeError("the user's own module cannot be trained")
        if self.training and self.fault == "die":
            os._exit(9)
        return super().forward(images)


def build(num_classes=10, in_chans=1, img_size=28, fault=None):
    network = tiny(num_classes, in_chans, img_size)
    network.__class__, network.fault = Fragile, fault
    return network
