"""AutoAttack results that others published, on CIFAR-10 within L-inf, for networks that we have.

Facts, carried over. `RB`: the README of robustbench 1.1.1 as its wheel on PyPI holds it; eps and
extra data from model_info/cifar10/Linf in its repository; networks from its model zoo. `AA`: the
README of the repository fra31/auto-attack (commit aaba775), which its authors closed in September
2021. Both score all 10,000 test images with the standard version of AutoAttack. A selection: the
methods that can be trained here, those that the CAT paper compares itself with, and others of
their networks. Neither lists a model of CAT.
"""

from __future__ import annotations

from dataclasses import dataclass

DATASET = "cifar10"
NORM = "linf"
N_IMAGES = 10_000
EIGHT = 8 / 255
RB = "RobustBench 1.1.1"
AA = "AutoAttack's README, 2021"
NO_CAT = f"Neither {RB} nor AutoAttack's README lists a model of CAT."

_EXTRA = "extra images"
_1M, _6M, _20M = (f"{n} synthetic images" for n in ("1M", "about 6M", "20M"))
_NOT_TRADES = "leaky ReLU, shortcuts without convolutions"
_RAW = "shortcuts from the raw input, no BatchNorm before the classifier"
_SWISH = "Swish in place of ReLU"
_SMALL_IMAGES = "3x3 first convolution, no pooling"


@dataclass(frozen=True)
class Entry:
    """One published model. Positional, since a table of facts is read by its columns."""

    name: str
    """The source's name, with what it was trained by where that is known by another."""
    venue: str
    """Where its paper appeared."""
    clean: float
    """Fraction of the test images that are right without an attack."""
    autoattack: float
    """Fraction under AutoAttack."""
    eps: float = EIGHT
    extra: str = ""
    """Training images beyond CIFAR-10's; empty for none."""
    network: str = ""
    """How its network differs from ours of that name; empty where no difference is known."""
    source: str = RB


ENTRIES = {
    "wrn-34-10": (
        Entry("Addepalli2022Efficient_WRN_34_10", "NeurIPS 2022", 0.8871, 0.5781),
        Entry("Chen2024Data_WRN_34_10", "Pattern Recognition 2024", 0.8654, 0.5730),
        Entry("Cui2023Decoupled_WRN-34-10 (IKL-AT)", "NeurIPS 2024", 0.8531, 0.5709),
        Entry("Jia2022LAS-AT_34_10", "arXiv, Mar 2022", 0.8498, 0.5626),
        Entry("Wu2020Adversarial (TRADES-AWP)", "NeurIPS 2020", 0.8536, 0.5617),
        Entry("Zhang2020Attacks (Friendly AT)", "ICML 2020", 0.8452, 0.5351),
        Entry("Huang2020Self", "NeurIPS 2020", 0.8348, 0.5334, eps=0.031),
        Entry("Zhang2019Theoretically (TRADES)", "ICML 2019", 0.8492, 0.5308, eps=0.031),
        Entry("Cui2020Learnable_34_10 (LBGAT)", "ICCV 2021", 0.8822, 0.5286, eps=0.031),
        Entry("Chen2020Efficient", "arXiv, Oct 2020", 0.8532, 0.5112),
        Entry("Sitawarin2020Improving", "arXiv, Mar 2020", 0.8684, 0.5072),
        Entry("Zhang2019You (YOPO, retrained)", "NeurIPS 2019", 0.8720, 0.4483),
        Entry("Madry et al.", "ICLR 2018", 0.8714, 0.4404, network=_NOT_TRADES, source=AA),
        Entry("Shafahi et al. (Free)", "NeurIPS 2019", 0.8611, 0.4147, source=AA),
    ),
    "wrn-28-10": (
        Entry("Cui2023Decoupled_WRN-28-10 (IKL-AT)", "NeurIPS 2024", 0.9216, 0.6773, extra=_20M),
        Entry("Wang2023Better_WRN-28-10", "ICML 2023", 0.9244, 0.6731, extra=_20M),
        Entry("Wu2020Adversarial_extra (AWP)", "NeurIPS 2020", 0.8825, 0.6004, extra=_EXTRA),
        Entry("Carmon2019Unlabeled", "NeurIPS 2019", 0.8969, 0.5953, extra=_EXTRA),
        Entry("Wang2020Improving (MART)", "ICLR 2020", 0.8750, 0.5629, extra=_EXTRA),
        Entry("Zhang & Wang (Feature Scattering)", "NeurIPS 2019", 0.8998, 0.3664, source=AA),
        Entry("Zhang & Xu (Adv. Interpolation)", "OpenReview, Sep 2019", 0.9025, 0.3645, source=AA),
        Entry("Wang & Zhang (Bilateral)", "ICCV 2019", 0.9280, 0.2935, source=AA),
    ),
    "resnet-18": (
        Entry("Sehwag2021Proxy_R18", "ICLR 2022", 0.8459, 0.5554, extra=_6M),
        Entry("Addepalli2022Efficient_RN18", "NeurIPS 2022", 0.8571, 0.5248),
        Entry("Addepalli2021Towards_RN18", "ECCV 2022", 0.8024, 0.5106),
    ),
    "preact-resnet-18": (
        Entry(
            *("Rade2021Helper_R18_extra (HAT)", "OpenReview, Jun 2021", 0.8902, 0.5767),
            extra=_EXTRA,
            network=_SWISH,
        ),
        Entry(
            *("Rade2021Helper_R18_ddpm (HAT)", "OpenReview, Jun 2021", 0.8686, 0.5709),
            extra=_1M,
            network=_SWISH,
        ),
        Entry(
            *("Rebuffi2021Fixing_R18_ddpm", "arXiv, Mar 2021", 0.8353, 0.5666),
            extra=_1M,
            network=_SWISH,
        ),
        Entry("Andriushchenko2020Understanding", "NeurIPS 2020", 0.7984, 0.4393, network=_RAW),
        Entry("Wong2020Fast (Fast)", "ICLR 2020", 0.8334, 0.4321, network=_RAW),
    ),
    "resnet-50": (
        Entry(
            *("Engstrom2019Robustness (Madry AT)", "GitHub, Oct 2019", 0.8703, 0.4925),
            network=_SMALL_IMAGES,
        ),
    ),
}
"""By the registry name of the network; the highest AutoAttack accuracy first."""
