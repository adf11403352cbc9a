"""Small networks for tests: what the product prunes, and what it must refuse."""

import torch
from torch import nn
from torch.nn import functional


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with random weights, biases and batch-norm statistics, so that no symmetry hides a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            fan = module.weight[0].numel()
            module.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.normal_(0, 0.2, generator=generator)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0.2, 0.3, generator=generator)
            module.running_mean.normal_(0, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def images(batch=3, channels=3, side=16, seed=0) -> torch.Tensor:
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(seed))


def conv(inputs, outputs, kernel=3, **settings):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **settings)


class Vgg(nn.Module):
    """Convs with and without batch norm, max pooling, a flatten of 4 x 4 positions, two linear layers with batch norm."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            conv(8, 12, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True), nn.Dropout2d(0.2),
            conv(12, 6, stride=2), nn.LeakyReLU(0.1, inplace=True),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 16, 10), nn.BatchNorm1d(10), nn.GELU(), nn.Dropout(0.3), nn.Linear(10, 4))

    def forward(self, x):
        return self.head(self.features(x))


class Residual(nn.Module):
    """Two residual blocks, one with a strided 1 x 1 shortcut, written with functions."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = conv(3, 6), conv(6, 10), conv(10, 6)
        self.norm, self.norm1, self.norm2 = nn.BatchNorm2d(6), nn.BatchNorm2d(10), nn.BatchNorm2d(6)
        self.expand, self.depthwise, self.project = conv(6, 14, 1), conv(14, 14, groups=14, stride=2), conv(14, 8, 1)
        self.shortcut, self.fc = conv(6, 8, 1, stride=2), nn.Linear(8, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.norm(self.stem(x))
        y = self.norm2(self.second(self.relu(self.norm1(self.first(x)))))
        x = self.relu(x + y)
        y = functional.relu6(self.depthwise(functional.relu6(self.expand(x))))
        x = self.project(y) + self.shortcut(x)
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class Mlp(nn.Module):
    """Linear layers on single vectors, or on the tokens of a sequence."""

    def __init__(self, inputs=6, hidden=9, outputs=4):
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Traced(nn.Module):
    """conv1 - relu - conv2 - pool - fc with `between` at work on the hidden channels: what a refusal is about."""

    def __init__(self, between=None, width=8, **extra):
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, width), conv(width, 5), nn.Linear(5, 4)
        self.between = between
        for name, module in extra.items():
            setattr(self, name, module)

    def middle(self, x):
        return self.between(x)

    def forward(self, x):
        x = self.middle(torch.relu(self.conv1(x)))
        return self.tail(self.conv2(x))

    def tail(self, x):
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


def middle(function, **extra) -> Traced:
    """A Traced network whose hidden channels go through function(network, channels)."""

    class Between(Traced):
        def middle(self, x):
            return function(self, x)

    return Between(**extra)


class SqueezeExcite(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.reduce, self.expand = conv(width, 2, 1), conv(2, width, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))))


class Squeezed(nn.Module):
    """Squeeze-excite before a depthwise conv and an activation, with a batch norm on its way, and one in a residual block."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.se = conv(3, 8), nn.BatchNorm2d(8), SqueezeExcite(8)
        self.deep, self.after, self.project = conv(8, 8, groups=8, stride=2), nn.BatchNorm2d(8), conv(8, 6, 1)
        self.a, self.reduce, self.mid, self.expand = conv(6, 10), conv(10, 4, 1), nn.BatchNorm2d(4), conv(4, 10, 1)
        self.b, self.fc = conv(10, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = self.se(functional.hardswish(self.norm(self.stem(x))))
        x = self.project(functional.silu(self.after(self.deep(x)), inplace=True))
        y = torch.relu(self.a(x))
        factors = self.expand(functional.relu(self.mid(self.reduce(y.mean((2, 3), keepdim=True))), inplace=True))
        x = x + self.b(y * functional.hardsigmoid(factors))
        return self.fc(x.mean((2, 3)))


class Grouped(nn.Module):
    """Grouped convs behind each other, with a depthwise one, a stream and squeeze-excite between them.

    `stem` is read in 2 groups, `a` written in 2 and read in 3, `b` written in 3 and read in 4; the stream is written by `c`
    in 4 and by `f` in 2, the branch `f`; `d` is read, `e` written and read in 2.
    """

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.a = conv(3, 8), nn.BatchNorm2d(8), conv(8, 12, groups=2)
        self.b, self.deep, self.c = conv(12, 24, 1, groups=3, bias=False), conv(24, 24, groups=24), conv(24, 8, groups=4, stride=2)
        self.after, self.d, self.e, self.se = nn.BatchNorm2d(8), conv(8, 6), conv(6, 6, groups=2), SqueezeExcite(6)
        self.f, self.fc = conv(6, 8, 1, groups=2), nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.a(functional.relu(self.norm(self.stem(x)))))
        x = self.after(self.c(functional.relu6(self.deep(functional.silu(self.b(x))))))
        y = self.se(torch.relu(self.e(torch.relu(self.d(x)))))
        return self.fc(torch.relu(x + self.f(y)).mean((2, 3)))


class Branched(nn.Module):
    """A stem that two layers read, the second through a pool and behind a unit of the other branch; logits of three readers."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.a, self.b = conv(3, 8), nn.BatchNorm2d(8), conv(8, 6, stride=2), conv(6, 5)
        self.shortcut, self.head = conv(8, 5, 1, bias=False), conv(5, 7, 1)
        self.one, self.two, self.three = nn.Linear(7, 4), nn.Linear(7, 4), nn.Linear(7, 4)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)), inplace=True)
        x = self.b(torch.relu(self.a(x))) + self.shortcut(functional.avg_pool2d(x, 2))
        x = torch.flatten(functional.adaptive_avg_pool2d(torch.relu(self.head(x)), 1), 1)
        return self.one(x) + self.two(x) * torch.sigmoid(self.three(x))


class TiedLinear(nn.Module):
    """fc2's weight is fc1's: cutting one would have to cut the other."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2, self.out = conv(3, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.fc2.weight = self.fc1.weight

    def forward(self, x):
        x = torch.flatten(functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 1), 1)
        return self.out(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def unbiased(num_classes=3, in_chans=1, img_size=28) -> nn.Module:
    """A unit whose consumer has neither a bias nor a batch norm behind it."""

    def forward(net, x):
        x = torch.relu(net.b(torch.relu(net.a(x))))
        return net.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))

    return Stripped(forward, a=conv(in_chans, 6), b=conv(6, 4, bias=False), fc=nn.Linear(4, num_classes))


class Stripped(nn.Module):
    """forward given as a function of (network, images)."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = conv(3, 4), conv(4, 4)

    def forward(self, x, y):
        return self.conv2(torch.relu(self.conv1(x))) + y
